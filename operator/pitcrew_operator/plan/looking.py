"""Asking the builder what it would make: when a look is due, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pitcrew_builder.report import Failed, Resolved, parse_resolution
from pitcrew_operator import reasons
from pitcrew_operator.api.version import Answer, Resolution
from pitcrew_operator.kinds import JOB
from pitcrew_operator.manifests.resolve_job import resolve_job
from pitcrew_operator.order import Order
from pitcrew_operator.plan import outcome
from pitcrew_operator.plan.actions import Action, Apply, Delete, Requeue
from pitcrew_operator.plan.conditions import Situation, reconciling, rfc3339, stalled
from pitcrew_operator.plan.inputs import missing
from pitcrew_operator.plan.pods import never_came, newest, why_not_running
from pitcrew_operator.views import Job, Pod

_LOOK_AGAIN: Final = 10.0
"""Seconds until an input that is missing is asked for again."""

_AGAIN: Final = timedelta(minutes=5)
"""After a look that failed for want of an answer, such as a hub that is down."""


@dataclass(frozen=True)
class Look:
    """What is known of what would be built."""

    answer: Answer | None = None
    """It holds for what is asked now."""
    trouble: Situation | None = None
    """Why there is none, or none that is newer."""
    actions: tuple[Action, ...] = ()
    resolution: Resolution | None = None
    """What this look adds to the status."""


def look(order: Order, jobs: Sequence[Job], pods: Sequence[Pod], now: datetime) -> Look:
    """The answer that is recorded, or a step towards the next one."""
    recorded = order.engine.status.resolution
    known = recorded if recorded is not None and recorded.inputs == order.inputs else None
    wait = _until_due(order, known, now) if known else timedelta()
    if known is not None and wait > timedelta():
        again = (Requeue(wait.total_seconds()),) if wait < timedelta.max else ()
        return Look(known.answer, _trouble(known), again)
    answer = known.answer if known else None
    if order.engine.spec.suspend:
        return Look(answer, None if answer else _SUSPENDED)
    job = next((job for job in jobs if job.meta.name == order.look_name), None)
    if job is None:
        return _begin(order, answer)
    if recorded is not None and recorded.job_uid == job.meta.uid and not job.meta.deleting:
        return _make_room(order, answer, job)
    if job.meta.deleting or not job.ended:
        return Look(answer, None if answer else _going(order, job, pods, now))
    return _ended(order, known, job, pods, now)


_SUSPENDED: Final = stalled(
    reasons.SUSPENDED, "spec.suspend is true, so nothing is built; set it to false to go on"
)


def _trouble(known: Resolution) -> Situation | None:
    return stalled(known.reason, known.message or "") if known.reason else None


def _until_due(order: Order, known: Resolution, now: datetime) -> timedelta:
    """Time until the next look; `timedelta.max` where none is due by itself."""
    seconds = order.engine.spec.rebuild_policy.poll_seconds
    patience = timedelta.max
    if seconds and order.moves:
        # Spread over a tenth, so that engines of one hour are not looked at in one second.
        spread = int(order.engine.meta.uid.encode().hex() or "0", 16) % 100 / 1000
        patience = timedelta(seconds=seconds * (1 + spread))
    if known.retryable:
        patience = min(patience, _AGAIN)
    if patience == timedelta.max:
        return patience
    elapsed = now - datetime.fromisoformat(known.at)
    # A clock that was set back must not put the next look off.
    return patience - elapsed if timedelta() <= elapsed < patience else timedelta()


def _begin(order: Order, answer: Answer | None) -> Look:
    absent = missing(order)
    if absent is not None:
        # No watch tells of a ConfigMap.
        again = (Requeue(_LOOK_AGAIN),) if order.prompts else ()
        return Look(answer, None if answer else absent, again)
    told = None if answer else _asks(order)
    return Look(answer, told, (Apply(resolve_job(order)),))


def _make_room(order: Order, answer: Answer | None, job: Job) -> Look:
    """The Job of the look before this one still bears its name."""
    gone = Delete(JOB, job.meta.namespace, job.meta.name, job.meta.uid)
    return Look(answer, None if answer else _asks(order), (gone,))


def _asks(order: Order) -> Situation:
    """One text from the Job's beginning to its end: each change of it would be a write."""
    return reconciling(reasons.RESOLVING, f"Job {order.look_name} asks what would be built")


def _going(order: Order, job: Job, pods: Sequence[Pod], now: datetime) -> Situation:
    if job.meta.deleting:
        text = f"waiting for the earlier Job {job.meta.name} to be gone"
        return reconciling(reasons.WAITING_FOR_DELETION, text)
    own = newest(pod for pod in pods if pod.job_name == job.meta.name)
    return (
        (why_not_running(own[0], order.store.name) if own else never_came(job, now, "spec.build"))
        or outcome.retrying(own)
        or _asks(order)
    )


def _ended(
    order: Order, known: Resolution | None, job: Job, pods: Sequence[Pod], now: datetime
) -> Look:
    own = newest(pod for pod in pods if pod.job_name == job.meta.name)
    report = _report(own)
    answer = known.answer if known else None
    if report is None and any(pod.termination is None for pod in own):
        return Look(answer, None if answer else _READING, (Requeue(1.0),))
    if report is None and not own:
        delete = Delete(JOB, job.meta.namespace, job.meta.name, job.meta.uid)
        return Look(answer, None if answer else _READING, (delete,))
    if isinstance(report, Resolved):
        resolution = _recorded(order, job, now, Answer.model_validate(report.model_dump()))
        return Look(resolution.answer, resolution=resolution)
    failure = _failure(order, job, report)
    resolution = _recorded(order, job, now, answer).model_copy(update=failure)
    return Look(answer, _trouble(resolution), resolution=resolution)


_READING: Final = reconciling(reasons.RESOLVING, "reading what the builder would make")


def _report(pods: Sequence[Pod]) -> Resolved | Failed | None:
    """The report of the youngest pod that left one; an answer counts before any failure."""
    told = [
        report
        for pod in pods
        if pod.termination and (report := parse_resolution(pod.termination.message))
    ]
    answer = next((report for report in told if isinstance(report, Resolved)), None)
    return answer or next(iter(told), None)


def _recorded(order: Order, job: Job, now: datetime, answer: Answer | None) -> Resolution:
    return Resolution(
        inputs=order.inputs,
        at=rfc3339(now),
        job_uid=job.meta.uid,
        source_uid=order.source_uid,
        pool=order.pool.recorded() if order.pool else None,
        answer=answer,
    )


def _failure(order: Order, job: Job, report: Failed | None) -> dict[str, object]:
    if report is not None:
        return {
            "reason": report.reason.value,
            "message": report.message,
            "retryable": report.retryable,
        }
    text = (
        f"Job {job.meta.name} ended ({job.failed or 'complete'}) and left no report that this "
        "operator can read; it is repeated; see its pods' logs, and use the builder image of the "
        f"operator's own version (now {order.image})"
    )
    return {"reason": reasons.RESOLVE_FAILED, "message": text, "retryable": True}
