"""One build on its way: its Job from absent to judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pitcrew_builder.report import Progress
from pitcrew_operator import reasons
from pitcrew_operator.api.version import Answer, EngineVersion, Phase
from pitcrew_operator.kinds import ENGINE, JOB
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.build_job import build_job
from pitcrew_operator.order import Order
from pitcrew_operator.plan import outcome
from pitcrew_operator.plan.actions import Action, Apply, Delete, Patch, Requeue
from pitcrew_operator.plan.conditions import Situation, reconciling, rfc3339, stalled
from pitcrew_operator.plan.pods import never_came, newest, why_not_running
from pitcrew_operator.views import Engine, Job, Pod

_LOOK_AGAIN: Final = 5.0


@dataclass(frozen=True)
class Turn:
    """What stands between a queued Job and its start."""

    ahead: int = 0
    """Builds that run or that waited longer."""
    limit: int = 0
    """Builds at a time; 0 is no limit."""
    collecting: str | None = None
    """A Job that removes engines from the same store at this moment."""

    @property
    def has_come(self) -> bool:
        """Whether the build may start."""
        return self.collecting is None and (self.limit == 0 or self.ahead < self.limit)


@dataclass(frozen=True)
class Advance:
    """A version after one step."""

    version: EngineVersion
    situation: Situation
    actions: tuple[Action, ...] = ()
    progress: str | None = None


def begin(order: Order, answer: Answer, now: datetime, judged: str | None = None) -> EngineVersion:
    """A version that is wanted. `judged` is the Job of an earlier attempt."""
    return EngineVersion(
        key=order.key(answer),
        spec_hash=order.spec_hash,
        phase=Phase.BUILDING,
        id=answer.engine_id,
        tag=answer.tag,
        target_tag=answer.target_tag,
        commit=answer.commit,
        toolchain=answer.toolchain,
        builder_version=answer.builder_version,
        platform=order.platform,
        trigger=order.engine.spec.rebuild_policy.trigger,
        image=order.image,
        settings=order.settings,
        job_name=order.job_name(answer),
        job_uid=judged,
        started_at=rfc3339(now),
    )


def start(order: Order, answer: Answer, version: EngineVersion, turn: Turn) -> Advance:
    """Create the Job; it waits where there is a limit, since others may be created as we look."""
    queued = turn.limit > 0 or turn.collecting is not None
    return Advance(
        version,
        reconciling(reasons.BUILD_STARTING, f"Job {version.job_name} is starting"),
        (Apply(build_job(order, answer, queued=queued)),),
        progress="Starting",
    )


def follow(
    order: Order,
    version: EngineVersion,
    job: Job,
    pods: Sequence[Pod],
    progress: Mapping[str, Progress],
    turn: Turn,
    now: datetime,
) -> Advance:
    """A step of a build whose Job exists."""
    if job.meta.deleting:
        text = f"waiting for the earlier Job {job.meta.name} to be gone"
        return Advance(version, reconciling(reasons.WAITING_FOR_DELETION, text))
    own = newest(pod for pod in pods if pod.job_name == job.meta.name)
    is_judged = job.meta.uid == version.job_uid
    if job.ended and not is_judged:
        return _ended(order, version, job, own, now)
    is_ours = job.meta.is_owned_by(order.engine.meta.uid)
    if is_judged or (is_ours and version.settings != order.settings):
        return _start_over(order, version, job)
    version = version.model_copy(update={"settings": order.settings})
    shared = () if is_ours else (share(order.engine, job),)
    if job.suspended:
        return _queued(version, job, turn, shared)
    going = _going(order, version, job, own, progress.get(job.meta.name), turn, now)
    return Advance(going.version, going.situation, (*shared, *going.actions), going.progress)


def _start_over(order: Order, version: EngineVersion, job: Job) -> Advance:
    """An attempt that was judged before, or that runs in another way than the spec says now."""
    again = version.model_copy(update={"settings": order.settings})
    told = reconciling(reasons.BUILD_STARTING, f"replacing Job {job.meta.name}")
    return Advance(again, told, (release(order.engine, job),))


def _queued(version: EngineVersion, job: Job, turn: Turn, shared: tuple[Action, ...]) -> Advance:
    if turn.has_come:
        told = reconciling(reasons.BUILD_STARTING, f"Job {job.meta.name} is starting")
        resume = Patch(JOB, job.meta, {"spec": {"suspend": False}})
        return Advance(version, told, shared or (resume,), progress="Starting")
    if turn.collecting is not None:
        text = f"waiting for Job {turn.collecting}, which removes old engines from the store"
        told = reconciling(reasons.WAITING_FOR_COLLECTION, text)
        # It may be another LLMEngine's Job, whose end nobody tells us.
        return Advance(version, told, (*shared, Requeue(_LOOK_AGAIN)))
    text = f"{turn.ahead} builds run or waited longer, and {turn.limit} may run at a time"
    return Advance(version, reconciling(reasons.QUEUED, text), shared, progress="Queued")


def _going(
    order: Order,
    version: EngineVersion,
    job: Job,
    pods: Sequence[Pod],
    progress: Progress | None,
    turn: Turn,
    now: datetime,
) -> Advance:
    proven = outcome.early(order, pods)
    if proven is not None:
        return _proven(version, job, proven, now)
    pod = pods[0] if pods else None
    # A Job that had to wait does not tell since when it may go on.
    unseen = never_came(job, now, "spec.build") if pod is None and not turn.limit else None
    if pod is not None and pod.running:
        text = f"{progress.phase} {progress.percent}%" if progress else "Starting"
        told = reconciling(reasons.BUILDING, f"Job {job.meta.name} is building the engine")
        again = Requeue(order.config.log_poll_seconds)
        return Advance(version, told, (again,), progress=text)
    situation = (
        (why_not_running(pod, order.store.name) if pod else unseen)
        or outcome.retrying(pods)
        or reconciling(reasons.BUILD_STARTING, f"Job {job.meta.name} is starting")
    )
    return Advance(version, situation, progress="Starting")


def _ended(
    order: Order, version: EngineVersion, job: Job, pods: Sequence[Pod], now: datetime
) -> Advance:
    match outcome.judge(order, job, pods):
        case outcome.Proven() as proven:
            return _proven(version, job, proven, now)
        case outcome.Refused(situation):
            return _failed(version, job, situation, now)
        case outcome.Lost(situation):
            return Advance(version, situation, (release(order.engine, job),))
        case outcome.Pending(situation):
            return Advance(version, situation, (Requeue(1.0),))


def _proven(version: EngineVersion, job: Job, proven: outcome.Proven, now: datetime) -> Advance:
    engine = proven.engine.model_copy(update={"cuda": version.toolchain.get("cuda")})
    known = {"id": engine.id, "tag": engine.tag, "commit": engine.commit, "engine": engine}
    ready = version.model_copy(update=_judged(job, now) | known | {"phase": Phase.READY})
    return Advance(ready, reconciling(reasons.BUILDING, f"engine {engine.tag} is proven"))


def _failed(version: EngineVersion, job: Job, situation: Situation, now: datetime) -> Advance:
    """Record why, so that it stays told after the Job is gone."""
    told = {"reason": situation.reason, "message": situation.message, "phase": Phase.FAILED}
    failed = version.model_copy(update=_judged(job, now) | told)
    return Advance(failed, failure(failed))


def failure(version: EngineVersion) -> Situation:
    """What is told of a version that failed."""
    return stalled(version.reason or reasons.BUILD_FAILED, version.message or "")


def _judged(job: Job, now: datetime) -> dict[str, Any]:
    return {"job_uid": job.meta.uid, "finished_at": rfc3339(now)}


def share(engine: Engine, job: Job) -> Patch:
    """Become one of the Job's owners, so that it outlives the others."""
    mine = names.shared_reference(ENGINE, engine.meta)
    return Patch(JOB, job.meta, {"metadata": {"ownerReferences": [*_others(engine, job), mine]}})


def release(engine: Engine, job: Job) -> Action:
    """Give the Job up: to its other owners where it has any."""
    others = _others(engine, job)
    if others and job.meta.is_owned_by(engine.meta.uid):
        return Patch(JOB, job.meta, {"metadata": {"ownerReferences": others}})
    return Delete(JOB, job.meta.namespace, job.meta.name, job.meta.uid)


def _others(engine: Engine, job: Job) -> list[dict[str, Any]]:
    return [
        names.shared_reference(ENGINE, engine.meta) | {"kind": kind, "name": name, "uid": uid}
        for kind, name, uid in job.meta.owners
        if uid != engine.meta.uid
    ]
