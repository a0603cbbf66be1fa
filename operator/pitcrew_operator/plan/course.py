"""The versions' course: which one is built, which one serves, and which Jobs are of no more use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pitcrew_builder.report import Progress
from pitcrew_operator import reasons
from pitcrew_operator.api.policy import Superseded
from pitcrew_operator.api.version import Answer, EngineVersion, Phase
from pitcrew_operator.kinds import JOB
from pitcrew_operator.manifests.builder_job import BUILD, COLLECT, RESOLVE
from pitcrew_operator.order import Order
from pitcrew_operator.plan.actions import Action, Delete
from pitcrew_operator.plan.book import Book
from pitcrew_operator.plan.building import Turn, begin, follow, release, start
from pitcrew_operator.plan.conditions import Situation, reconciling
from pitcrew_operator.plan.looking import Look
from pitcrew_operator.plan.permission import is_spent, may_begin, told
from pitcrew_operator.plan.retention import expire
from pitcrew_operator.views import Job, Pod


@dataclass(frozen=True)
class Work:
    """The Jobs that concern one engine, and how they are doing."""

    jobs: tuple[Job, ...] = ()
    """Those that it owns, and the one that builds what it wants, whoever owns that."""
    pods: tuple[Pod, ...] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """Newest progress by Job name."""
    turn: Turn = field(default_factory=Turn)
    sought: str | None = None
    """The build Job that was looked for."""

    def job(self, name: str) -> Job | None:
        """The Job of that name."""
        return next((job for job in self.jobs if job.meta.name == name), None)


@dataclass(frozen=True)
class Course:
    """The versions after one step."""

    book: Book
    trouble: Situation | None
    """Why the wanted version does not serve yet; None where it does."""
    actions: tuple[Action, ...] = ()
    progress: str | None = None


def advance(order: Order, book: Book, found: Look, work: Work, now: datetime) -> Course:
    """Go on with the build that runs, or with the version that is wanted."""
    running = book.running
    if running is not None:
        job = work.job(running.job_name)
        if not _goes_on(order, running, job, found.answer):
            book = book.drop(running.key)
        elif found.answer is None or running.key != order.key(found.answer):
            if job is not None:
                return _finish(order, book, found.answer, job, work, now)
            book = book.drop(running.key)
    if found.answer is None:
        return Course(book, found.trouble)
    if found.resolution is not None and work.sought != order.job_name(found.answer):
        # Whether a Job of the wanted name is there already has to be looked up first.
        settled = _settled(order, book, found.answer)
        text = "its build is next"
        return settled or Course(book, reconciling(reasons.RESOLVING, text))
    return _wanted(order, book, found.answer, work, now)


def _goes_on(order: Order, running: EngineVersion, job: Job | None, answer: Answer | None) -> bool:
    """Whether a running build is still of use, or at least to be finished."""
    if order.engine.spec.suspend and (job is None or job.suspended):
        return False
    if answer is not None and running.key == order.key(answer):
        return True
    if running.spec_hash != order.spec_hash:
        return False
    return answer is None or order.engine.spec.rebuild_policy.superseded is Superseded.FINISH


def _settled(order: Order, book: Book, answer: Answer) -> Course | None:
    """The wanted version is proven: it serves."""
    version = book.find(order.key(answer))
    if version is None or version.phase is not Phase.READY:
        return None
    trigger = order.engine.spec.rebuild_policy.trigger
    confirmed = {"spec_hash": order.spec_hash, "trigger": trigger}
    return Course(book.proven(version.model_copy(update=confirmed)), None)


def _wanted(order: Order, book: Book, answer: Answer, work: Work, now: datetime) -> Course:
    version, job = book.find(order.key(answer)), work.job(order.job_name(answer))
    if version is not None and version.phase is Phase.RETIRED:
        return _return(order, book, version, answer, work)
    settled = _settled(order, book, answer)
    if settled is not None:
        return settled
    if version is None or version.phase is Phase.FAILED:
        if version is not None and is_spent(order, version, job):
            return Course(book, told(version, book))
        held = may_begin(order, answer, book, now)
        if held is not None:
            return Course(book, held.situation, held.actions)
        version = begin(order, answer, now, judged=version.job_uid if version else None)
        book = book.drop(version.key).put(version)
    if job is not None:
        return _follow(order, book, version, job, work, now)
    step = start(order, answer, version, work.turn)
    return Course(book, step.situation, step.actions, step.progress)


def _return(order: Order, book: Book, version: EngineVersion, answer: Answer, work: Work) -> Course:
    """A version that was to be removed is wanted again: it stays, unless its removal has begun."""
    collecting = next((job for job in work.jobs if job.component == COLLECT), None)
    if collecting is not None:
        text = f"waiting for Job {collecting.meta.name}, which removes this version"
        return Course(book, reconciling(reasons.WAITING_FOR_COLLECTION, text))
    back = book.put(version.model_copy(update={"phase": Phase.READY}))
    settled = _settled(order, back, answer)
    assert settled is not None, "it is ready"
    return settled


def _finish(
    order: Order, book: Book, answer: Answer | None, job: Job, work: Work, now: datetime
) -> Course:
    """Go on with a build that is not what is wanted now. Where that is proven already (a branch came
    back to where it was), it serves, and the build is only kept.
    """
    running = book.running
    assert running is not None, "it was found there"
    settled = _settled(order, book, answer) if answer is not None else None
    if settled is None:
        return _follow(order, book, running, job, work, now)
    step = follow(order, running, job, work.pods, work.progress, work.turn, now)
    ready = step.version.phase is Phase.READY
    after = settled.book.kept(step.version) if ready else settled.book.put(step.version)
    return Course(after, None, step.actions, step.progress)


def _follow(
    order: Order, book: Book, version: EngineVersion, job: Job, work: Work, now: datetime
) -> Course:
    step = follow(order, version, job, work.pods, work.progress, work.turn, now)
    if step.version.phase is Phase.READY:
        return Course(book.proven(step.version), None, step.actions)
    book = book.put(step.version)
    failed = step.version.phase is Phase.FAILED
    trouble = told(step.version, book) if failed else step.situation
    return Course(book, trouble, step.actions, step.progress)


def sweep(order: Order, book: Book, jobs: Sequence[Job], now: datetime) -> tuple[Action, ...]:
    """What becomes of Jobs that nothing waits for any more."""
    actions: list[Action] = []
    resolution = order.engine.status.resolution
    read = resolution.job_uid if resolution else None
    for job in jobs:
        if job.meta.deleting or not job.meta.is_owned_by(order.engine.meta.uid):
            continue
        if job.component == RESOLVE and job.meta.name != order.look_name and job.meta.uid != read:
            actions.append(Delete(JOB, job.meta.namespace, job.meta.name, job.meta.uid))
        elif job.component == BUILD:
            actions += _swept(order, book, job, now)
    return tuple(actions)


def _swept(order: Order, book: Book, job: Job, now: datetime) -> tuple[Action, ...]:
    version = next((v for v in book.versions if v.job_name == job.meta.name), None)
    if version is None:
        return (release(order.engine, job),)
    return () if version.phase is Phase.BUILDING else expire(job, now, order.config)
