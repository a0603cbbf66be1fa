"""From the autoscaling of a spec to a number of replicas that the rest of a plan can count on.

What is decided is recorded first and acted on in the next pass: `settled` makes the recorded number the
replicas of a spec that leaves them out. So a pass that is cut off anywhere is repeated with the same number.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from pitcrew_operator.api.autoscaling import (
    Autoscaling,
    AutoscalingStatus,
    ScaleDown,
    ScaleUp,
    SignalStatus,
)
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.manifests.gpu import holds_gpus
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.plan.actions import Emit
from pitcrew_operator.plan.autoscaling.decision import Decision, Pace, Policy, Record, decide
from pitcrew_operator.plan.autoscaling.votes import Targets, Vote
from pitcrew_operator.plan.conditions import Fact, Situation, rfc3339
from pitcrew_operator.plan.replicas import Fleet
from pitcrew_operator.plan.scaling_words import events, facts, held, number, why
from pitcrew_operator.plan.seen import DeploymentSeen
from pitcrew_operator.plan.voters import voters_of
from pitcrew_operator.plan.wish import BESIDES_STARTUP
from pitcrew_operator.views import Deployment

_LOOKS_MISSED: Final = 3
"""In a row, before what was seen is too old."""
_RETOLD: Final = 0.25
"""Part of its target that a signal has to move by to be told anew: every change is a write."""


@dataclass(frozen=True)
class Scaling:
    """What is recorded and told of a decision."""

    status: AutoscalingStatus
    facts: tuple[Fact, ...]
    events: tuple[Emit, ...] = ()


def settled(owner: Deployment, fleet: Fleet) -> Deployment:
    """The deployment with the decided number as its replicas; as it is where it says the number itself."""
    autoscaling = owner.spec.autoscaling
    if autoscaling is None:
        return owner
    replicas = _bounded(autoscaling, _recorded(owner, fleet).desired)
    return replace(owner, spec=owner.spec.model_copy(update={"replicas": replicas}))


def scale(owner: Deployment, seen: DeploymentSeen, fleet: Fleet, now: datetime) -> Scaling | None:
    """What is decided now; None where nothing is to be."""
    autoscaling, before = owner.spec.autoscaling, owner.status.autoscaling
    if autoscaling is None:
        return None
    record = _recorded(owner, fleet)
    if isinstance(seen.target, Situation):
        kept = replace(record, desired=_bounded(autoscaling, record.desired))
        return Scaling(_status(before, Decision(kept), fleet, ""), (held(kept, seen.target),))
    policy = policy_of(owner, autoscaling, seen.target, _LOOKS_MISSED * seen.looks_every)
    decision = decide(policy, record, seen.looks, now)
    text = why(policy, record, decision)
    told = facts(owner, policy, decision)
    return Scaling(
        _status(before, decision, fleet, text),
        told,
        tuple(events(owner, record, decision, told, text, now)),
    )


def policy_of(owner: Deployment, autoscaling: Autoscaling, target: Revision, gap: float) -> Policy:
    """The spec in the planner's words."""
    behavior = autoscaling.behavior
    return Policy(
        autoscaling.min_replicas,
        autoscaling.max_replicas,
        targets_of(owner, autoscaling, target.engine),
        up=_pace(behavior.scale_up),
        down=_pace(behavior.scale_down, behavior.scale_down.tolerance_percent),
        patience=owner.spec.runtime.startup_seconds + BESIDES_STARTUP,
        gap=gap,
    )


def targets_of(owner: Deployment, autoscaling: Autoscaling, engine: EngineStatus) -> Targets:
    """What the signals that vote are held against."""
    vote = voters_of(
        autoscaling, has_gpus=holds_gpus(engine.compute_capability, owner.spec.runtime)
    )
    return Targets(
        gpu=vote.gpu.target_percent if vote.gpu else None,
        waiting=vote.waiting.target_per_replica if vote.waiting else None,
        kv=vote.kv.target_percent if vote.kv else None,
        first_token=vote.first_token.target_milliseconds / 1000 if vote.first_token else None,
        slots=max(1, engine.max_batch_size),
    )


def _pace(asked: ScaleUp | ScaleDown, tolerance_percent: int = 0) -> Pace:
    return Pace(
        asked.stabilization_window_seconds,
        asked.step_replicas,
        asked.step_percent,
        asked.period_seconds,
        tolerance_percent / 100,
    )


def _bounded(autoscaling: Autoscaling, replicas: int) -> int:
    return max(autoscaling.min_replicas, min(replicas, autoscaling.max_replicas))


def _recorded(owner: Deployment, fleet: Fleet) -> Record:
    """What was decided last. Without it, as where autoscaling is new, what there is goes on."""
    known, autoscaling = owner.status.autoscaling, owner.spec.autoscaling
    assert autoscaling is not None, "only an autoscaled deployment has a record"
    if known is None:
        there = sum(count.wanted for count in fleet.counts.values())
        return Record(_bounded(autoscaling, there))
    return Record(known.desired_replicas, _time(known.last_scale_time), known.warming)


def _status(
    before: AutoscalingStatus | None, decision: Decision, fleet: Fleet, text: str
) -> AutoscalingStatus:
    record = decision.record
    known = before.signals if before is not None else ()
    return AutoscalingStatus(
        desired_replicas=record.desired,
        current_replicas=fleet.ready,
        last_scale_time=rfc3339(record.scaled) if record.scaled else None,
        warming=record.warming,
        message=text or (before.message if before else ""),
        signals=_told(known, decision.votes) if not text else tuple(map(_signal, decision.votes)),
    )


def _told(known: tuple[SignalStatus, ...], found: tuple[Vote, ...]) -> tuple[SignalStatus, ...]:
    """Those told before, unless one of them has changed much. Where nothing was seen nothing is new."""
    fresh = tuple(map(_signal, found))
    if not found:
        return known
    same = len(known) == len(fresh) and all(map(_is_near, known, fresh, found))
    return known if same else fresh


def _is_near(known: SignalStatus, fresh: SignalStatus, vote: Vote) -> bool:
    if (known.name, known.target) != (fresh.name, fresh.target):
        return False
    if known.current is None or fresh.current is None:
        return known.current == fresh.current
    return abs(float(known.current) - float(fresh.current)) < _RETOLD * float(fresh.target)


def _signal(vote: Vote) -> SignalStatus:
    return SignalStatus(
        name=vote.signal.value,
        current=None if vote.current is None else number(vote.signal, vote.current),
        target=number(vote.signal, vote.target),
        desired_replicas=None if vote.wanted is None else max(0, vote.wanted),
    )


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except ValueError:
        return None
