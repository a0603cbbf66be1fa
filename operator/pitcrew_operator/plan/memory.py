"""What the status remembers of a rollout, in the planner's words, and back."""

from datetime import UTC, datetime

from pitcrew_operator.api.rollout import FailedRevision, RolloutStatus
from pitcrew_operator.plan.conditions import rfc3339
from pitcrew_operator.plan.rollout.course import Failure, Fault, Record


def recall(status: RolloutStatus | None) -> Record | None:
    """The record of the last pass. A time that cannot be read counts as none."""
    if status is None:
        return None
    return Record(
        revision=status.revision,
        stable=status.stable,
        step=max(0, status.step - 1),
        progressed=_time(status.progressed_at),
        held=_time(status.held_since),
        available=status.available,
        failed=_failure(status.failed) if status.failed else None,
    )


def remember(record: Record, before: RolloutStatus | None, engine_tag: str) -> dict[str, object]:
    """The fields of a `RolloutStatus` that hold the record."""
    known = before.failed if before else None
    return {
        "revision": record.revision,
        "stable": record.stable,
        "progressed_at": _text(record.progressed),
        "held_since": _text(record.held),
        "available": record.available,
        "failed": _failed(record.failed, known, engine_tag) if record.failed else None,
    }


def resting(status: RolloutStatus | None) -> RolloutStatus | None:
    """While a rollout cannot go on, no time of it runs: it gets all of it again afterwards."""
    return status and status.model_copy(update={"progressed_at": None, "held_since": None})


def _failure(failed: FailedRevision) -> Failure:
    return Failure(
        failed.revision,
        Fault(failed.reason, failed.message),
        _time(failed.at) or datetime.min.replace(tzinfo=UTC),
        failed.trigger,
    )


def _failed(failure: Failure, known: FailedRevision | None, engine_tag: str) -> FailedRevision:
    if known is not None and known.revision == failure.revision:
        return known
    return FailedRevision(
        revision=failure.revision,
        engine=engine_tag,
        reason=failure.fault.reason,
        message=failure.fault.message,
        at=rfc3339(failure.at),
        trigger=failure.trigger,
    )


def _text(moment: datetime | None) -> str | None:
    return rfc3339(moment) if moment is not None else None


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
