"""Which proven versions go, and how their engines leave the store.

A version is retired first, in the status; then the Jobs that tell of its engine are deleted, so that
nobody believes them any more; then a Job removes the engine; then the version is forgotten. What
another LLMEngine still has is forgotten without being removed. Where several have retired one
engine, the duty falls to the one whose UID sorts last, once the others have forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pitcrew_operator.api.version import EngineVersion, Phase
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import JOB
from pitcrew_operator.manifests.builder_job import COLLECT
from pitcrew_operator.manifests.collect_job import collect_job, collect_name
from pitcrew_operator.order import Order
from pitcrew_operator.plan.actions import Action, Apply, Delete, Requeue
from pitcrew_operator.plan.book import Book
from pitcrew_operator.views import Job

_PATIENCE: Final = 60.0
"""Seconds until a removal that somebody else holds up is thought of again."""

_LOOK_AGAIN: Final = 5.0
"""Seconds until Jobs that were deleted are taken to be gone; they may be another LLMEngine's."""


@dataclass(frozen=True)
class Uses:
    """What in the namespace speaks against removing an engine."""

    deployments: frozenset[str] = frozenset()
    """Ids that an LLMDeployment serves or names."""
    engines: frozenset[str] = frozenset()
    """Ids that other LLMEngines have or will have, or have the duty to remove."""
    unforgotten: frozenset[str] = frozenset()
    """Ids that other LLMEngines have retired and are about to forget."""
    builds: tuple[Job, ...] = ()
    """Every build Job of the store, whatever its namespace."""

    @property
    def is_building(self) -> bool:
        """A build may find any engine of its store, so none is removed meanwhile."""
        return any(not job.ended for job in self.builds)


@dataclass(frozen=True)
class Tidied:
    """The versions that are left, and what to do."""

    book: Book
    actions: tuple[Action, ...] = ()


def tidy(order: Order, book: Book, jobs: Sequence[Job], uses: Uses, now: datetime) -> Tidied:
    """One step towards the versions that retention asks for."""
    job = next((job for job in jobs if job.component == COLLECT), None)
    if job is None:
        return _collect(order, _marked(order, book, uses), uses)
    if job.meta.deleting or not job.ended:
        return Tidied(book)
    removed = [v for v in book.retired if job.meta.name == collect_name(order.engine, _ids(book))]
    if job.complete:
        return Tidied(book.drop(*(v.key for v in removed)), (_delete(job),) if not removed else ())
    # Somebody reads an engine, or the store is away: the Job is repeated once it is removed.
    return Tidied(book, expire(job, now, order.config))


def _marked(order: Order, book: Book, uses: Uses) -> Book:
    """Retired where retention says so; back in service where a deployment has named it since."""
    for version in book.retired:
        if version.id in uses.deployments:
            book = book.put(version.model_copy(update={"phase": Phase.READY}))
    return book.retire(order.engine.spec.retention, uses.deployments)


def _collect(order: Order, book: Book, uses: Uses) -> Tidied:
    known = {v.id for v in book.versions if v.phase is not Phase.RETIRED} | uses.engines
    book = book.drop(*(v.key for v in book.retired if v.id is None or v.id in known))
    ids = _ids(book)
    if not ids or order.engine.spec.suspend:
        return Tidied(book)
    if uses.is_building or not uses.unforgotten.isdisjoint(ids):
        return Tidied(book, (Requeue(_PATIENCE),))
    own = [job for job in uses.builds if job.meta.namespace == order.engine.meta.namespace]
    believed = _telling_of(book.retired, own)
    if believed:
        return Tidied(book, (*map(_delete, believed), Requeue(_LOOK_AGAIN)))
    return Tidied(book, (Apply(collect_job(order.engine, order.store, ids, order.config)),))


def _telling_of(versions: Sequence[EngineVersion], builds: Sequence[Job]) -> list[Job]:
    """The build Jobs, whoever owns them, whose success would be believed after the removal."""
    names = {version.job_name for version in versions}
    return [job for job in builds if job.meta.name in names]


def _ids(book: Book) -> list[str]:
    return [version.id for version in book.retired if version.id is not None]


def expire(job: Job, now: datetime, config: Config) -> tuple[Action, ...]:
    """A finished Job is kept for its logs for a while."""
    if job.meta.deleting or job.finished_at is None:
        return ()
    ends = job.finished_at + timedelta(seconds=config.job_retention_seconds)
    left = (ends - now).total_seconds()
    return (_delete(job),) if left <= 0 else (Requeue(left),)


def _delete(job: Job) -> Delete:
    return Delete(JOB, job.meta.namespace, job.meta.name, job.meta.uid)
