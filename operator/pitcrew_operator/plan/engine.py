"""What to do about an LLMEngine.

The life of a wish: find the store; ask the builder what it would make of the sources at this moment;
build that, beside what serves, unless it is there already; record it. A version is never built twice
and the one that was proven last serves until another is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pitcrew_operator import reasons
from pitcrew_operator.api.common import wrong_fields
from pitcrew_operator.api.engine import LLMEngineStatus
from pitcrew_operator.api.prompts import ConfigMapKey
from pitcrew_operator.api.version import Resolution
from pitcrew_operator.config import Config
from pitcrew_operator.gpus import GpuPool
from pitcrew_operator.manifests.store import Store, store_manifest
from pitcrew_operator.order import Order
from pitcrew_operator.plan.actions import Action, Apply, WriteStatus
from pitcrew_operator.plan.book import Book
from pitcrew_operator.plan.conditions import (
    Fact,
    Situation,
    conditions,
    is_first_word,
    ready,
    reconciling,
    stalled,
    transition,
)
from pitcrew_operator.plan.course import Work, advance, sweep
from pitcrew_operator.plan.currency import currency, turned
from pitcrew_operator.plan.looking import look
from pitcrew_operator.plan.retention import Uses, tidy
from pitcrew_operator.views import Claim, Engine, Job


@dataclass(frozen=True)
class EngineSeen:
    """What the cluster holds for one engine."""

    store: Store | None = None
    source: Claim | None = None
    prompts: Mapping[ConfigMapKey, str | None] = field(default_factory=dict)
    """Digest of each ConfigMap's key that the spec names; None where it is not there."""
    pool: GpuPool | None = None
    work: Work = field(default_factory=Work)
    uses: Uses = field(default_factory=Uses)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The Jobs of the builder's image that concern it."""
        return self.work.jobs


@dataclass(frozen=True)
class Step:
    """One step's result: where the engine stands, what to write and what to do."""

    situation: Situation
    book: Book
    actions: tuple[Action, ...] = ()
    progress: str | None = None
    resolution: Resolution | None = None
    """The newest look, where this step took one."""
    facts: tuple[Fact, ...] = ()


def plan_engine(engine: Engine, seen: EngineSeen, now: datetime, config: Config) -> list[Action]:
    """The actions that bring the engine closer to its spec; empty where nothing is to do."""
    if engine.meta.deleting:
        return []
    step = _step(engine, seen, now, config)
    report = _report(engine, step, now)
    # An answer is recorded before what it asks for is begun, so that no build is ever unknown.
    first = 1 if step.resolution is not None else 0
    return [*report[:first], *step.actions, *report[first:]]


def _report(engine: Engine, step: Step, now: datetime) -> list[Action]:
    before, generation, book = engine.status, engine.meta.generation, step.book
    told = conditions(step.situation, generation, before.conditions, now, step.facts)
    status = LLMEngineStatus(
        observed_generation=generation,
        conditions=told,
        model=engine.spec.model.display_name,
        progress=step.progress,
        engine=book.engine,
        current=book.current,
        previous=book.previous,
        resolution=step.resolution or before.resolution,
        versions=book.versions,
    )
    if status == before:
        return []
    remembers = step.resolution is not None or status.versions != before.versions
    can_wait = is_first_word(before.conditions, step.situation) and not remembers
    events = transition(engine.kind, engine.meta, before, step.situation, now, can_wait=can_wait)
    for fact in step.facts:
        events += turned(engine, fact, now)
    return [WriteStatus(engine.kind, engine.meta, status, can_wait), *events]


def _step(engine: Engine, seen: EngineSeen, now: datetime, config: Config) -> Step:
    book = Book.of(engine.status)
    try:
        engine.spec.build_spec()
    except ValueError as error:
        return Step(stalled(reasons.INVALID_SPEC, wrong_fields(error)), book)
    if seen.store is None:
        return _without_store(engine, book, config)
    return _follow(
        Order(engine, config, seen.store, seen.source, seen.prompts, seen.pool), book, seen, now
    )


def _without_store(engine: Engine, book: Book, config: Config) -> Step:
    name, namespace = engine.spec.store.claim_name, engine.meta.namespace
    if name is None:
        text = f"creating PersistentVolumeClaim {config.store_claim} for the engines"
        situation = reconciling(reasons.CREATING_STORE, text)
        return Step(situation, book, (Apply(store_manifest(namespace, config)),))
    return Step(
        reconciling(
            reasons.STORE_NOT_FOUND,
            f"PersistentVolumeClaim {name} of spec.store.claimName does not exist in namespace "
            f"{namespace}; create it, or leave spec.store out to use the operator's own",
        ),
        book,
    )


def _follow(order: Order, book: Book, seen: EngineSeen, now: datetime) -> Step:
    """Look at the sources, go one step towards the version that they ask for, and tidy up."""
    found = look(order, seen.jobs, seen.work.pods, now)
    course = advance(order, book, found, seen.work, now)
    tidied = tidy(order, course.book, seen.jobs, seen.uses, now)
    swept = sweep(order, tidied.book, seen.jobs, now)
    fact = currency(order, tidied.book, found.answer, course.trouble or found.trouble)
    return Step(
        _situation(order, tidied.book, course.trouble),
        tidied.book,
        (*swept, *found.actions, *course.actions, *tidied.actions),
        progress=course.progress,
        resolution=found.resolution,
        facts=(fact,),
    )


def _situation(order: Order, book: Book, trouble: Situation | None) -> Situation:
    """What the spec asks for is served, or why not. Trouble from outside shows in UpToDate alone."""
    serving = book.serving
    if serving is not None and (trouble is None or serving.spec_hash == order.spec_hash):
        return ready(reasons.ENGINE_READY, f"engine {serving.tag} is published and proven")
    assert trouble is not None, "the wanted version serves, or something is in its way"
    return trouble
