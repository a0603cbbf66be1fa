"""What is told of a rollout: the situation, the facts beside it, and the numbers."""

from datetime import datetime

from pitcrew_operator import reasons
from pitcrew_operator.api.rollout import RolloutStatus
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.plan.actions import Emit
from pitcrew_operator.plan.conditions import (
    NOTE_LIMIT,
    Fact,
    Situation,
    ready,
    reconciling,
    rfc3339,
    stalled,
)
from pitcrew_operator.plan.memory import remember
from pitcrew_operator.plan.replicas import Fleet
from pitcrew_operator.plan.rolling import Rolling
from pitcrew_operator.plan.rollout.course import Failure, Fault, Phase
from pitcrew_operator.plan.wish import spec_digest
from pitcrew_operator.views import Deployment

UP_TO_DATE = "UpToDate"
_UNDER_WAY = frozenset({Phase.PROGRESSING, Phase.CANARY, Phase.PAUSED})


def situation_of(owner: Deployment, target: Revision, fleet: Fleet, rolling: Rolling) -> Situation:
    """Ready only where every replica is of the target, and one has answered through the Service."""
    course, wanted = rolling.course, owner.spec.wanted_replicas
    if course.record.failed is not None:
        return _given_up(owner, course.phase, course.record.failed, target)
    if wanted == 0 and fleet.present == 0 and not rolling.moves:
        return ready(reasons.SCALED_TO_ZERO, "spec.replicas is 0; no pod runs")
    if course.phase is Phase.COMPLETE and not rolling.moves:
        return _served(wanted, target, rolling)
    if course.phase is Phase.PAUSED:
        text = f"{_told(wanted, target, fleet)}; spec.rollout.paused holds the rollout there"
        return reconciling(reasons.PAUSED, text)
    if course.failing is not None:
        return _failing(course.failing, target)
    if course.phase is Phase.CANARY:
        return reconciling(reasons.CANARY, _canary(owner, target, fleet, rolling))
    return rolling.trouble or reconciling(reasons.ROLLING_OUT, _told(wanted, target, fleet))


def _served(wanted: int, target: Revision, rolling: Rolling) -> Situation:
    if rolling.proof is None:
        text = "every replica is ready; waiting for an answer through the Service"
        return reconciling(reasons.PROVING_SERVICE, text)
    if rolling.proof.problem is not None:
        return reconciling(reasons.SERVICE_UNREACHABLE, rolling.proof.problem)
    text = f"{wanted} of {wanted} replicas serve engine {target.engine.tag}"
    return ready(reasons.SERVING, text)


def _given_up(owner: Deployment, phase: Phase, failed: Failure, target: Revision) -> Situation:
    """A change of the user's own that failed is theirs to mend; one from outside left Ready as it
    was.
    """
    text = (
        f"engine {target.engine.tag} was given up ({failed.fault.reason}: {failed.fault.message})"
    )
    if phase is Phase.ROLLING_BACK:
        return reconciling(reasons.ROLLING_BACK, f"{text}; going back to what served before")
    text = f"{text}; what served before serves again"
    known = owner.status.rollout
    if known is not None and known.stable_spec == spec_digest(owner):
        return ready(reasons.ROLLED_BACK, f"{text}; see condition UpToDate")
    return stalled(reasons.ROLLED_BACK, f"{text}; {_REMEDY}")


def _failing(fault: Fault, target: Revision) -> Situation:
    text = f"engine {target.engine.tag} fails: {fault.message}; spec.rollout.autoRollback is false"
    return stalled(fault.reason, f"{text}: correct the spec, or take the change back")


_REMEDY = "correct the spec, or set spec.rollout.trigger to another text to try again"


def _told(wanted: int, target: Revision, fleet: Fleet) -> str:
    own = fleet.of_revision(target.hash)
    serving = min(own.wanted, own.available) if own else 0
    text = f"{serving} of {wanted} replicas serve engine {target.engine.tag}"
    old = fleet.present - (own.replicas if own else 0)
    return f"{text}; {old} old ones are still to go" if old > 0 else text


def _canary(owner: Deployment, target: Revision, fleet: Fleet, rolling: Rolling) -> str:
    canary, course = owner.spec.rollout.canary, rolling.course
    assert canary is not None, "only a canary has steps"
    share = course.goals.get(target.hash, 0)
    hold = canary.steps[course.record.step].hold_seconds
    text = (
        f"step {course.record.step + 1} of {len(canary.steps)}: {share} of {fleet.present} replicas "
        f"serve engine {target.engine.tag} for at least {hold} s"
    )
    return f"{text}; {course.note}" if course.note else text


def fact_of(target: Revision, rolling: Rolling) -> Fact:
    """Whether what serves is what is asked for."""
    failed = rolling.course.record.failed
    if failed is not None:
        text = (
            f"engine {target.engine.tag}: {failed.fault.reason}: {failed.fault.message}; {_REMEDY}"
        )
        return Fact(UP_TO_DATE, "False", reasons.ROLLED_BACK, text)
    if rolling.course.phase is Phase.COMPLETE:
        return Fact(UP_TO_DATE, "True", reasons.UP_TO_DATE, "")
    return Fact(
        UP_TO_DATE, "False", reasons.ROLLING_OUT, f"engine {target.engine.tag} is on its way"
    )


def status_of(owner: Deployment, target: Revision, fleet: Fleet, rolling: Rolling) -> RolloutStatus:
    """The numbers, and what has to be remembered."""
    before, course = owner.status.rollout, rolling.course
    canary = owner.spec.rollout.canary
    under_way = course.phase in _UNDER_WAY and course.record.stable not in (None, target.hash)
    steps = len(canary.steps) if canary and under_way else 0
    reached = rolling.proof is not None and rolling.proof.problem is None
    complete = course.phase is Phase.COMPLETE
    return RolloutStatus(
        phase=course.phase.value,
        engine_id=target.engine.id,
        stable_spec=spec_digest(owner) if complete else before.stable_spec if before else None,
        weight=_weight(target, fleet),
        step=course.record.step + 1 if steps else 0,
        steps=steps,
        answered=target.hash if reached else before.answered if before else None,
        **remember(course.record, before, target.engine.tag),
    )


def _weight(target: Revision, fleet: Fleet) -> int:
    serving = {hash_: count.serving for hash_, count in fleet.counts.items()}
    total = sum(serving.values())
    return round(100 * serving.get(target.hash, 0) / total) if total else 0


def step_event(owner: Deployment, after: RolloutStatus, message: str, now: datetime) -> list[Emit]:
    """The event of a canary's next step; its first one is a transition of the conditions."""
    before = owner.status.rollout
    if before is None or before.revision != after.revision or not 1 <= before.step < after.step:
        return []
    note = message[:NOTE_LIMIT]
    return [Emit(owner.kind, owner.meta, "Normal", reasons.CANARY_STEP, note, rfc3339(now))]
