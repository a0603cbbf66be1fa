"""How decisions about the number of replicas are told: sentences, conditions, and events on transitions.

Conditions hold no measured number, as every change of one is a write.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal

from pitcrew_operator import reasons
from pitcrew_operator.api.common import Condition
from pitcrew_operator.plan.actions import Emit
from pitcrew_operator.plan.autoscaling.decision import Blindness, Cause, Decision, Policy, Record
from pitcrew_operator.plan.autoscaling.votes import Signal, Vote
from pitcrew_operator.plan.conditions import NOTE_LIMIT, Fact, Situation, find, rfc3339
from pitcrew_operator.views import Deployment

SCALING_ACTIVE: Final = "ScalingActive"
SCALING_LIMITED: Final = "ScalingLimited"
CONDITIONS: Final = frozenset({SCALING_ACTIVE, SCALING_LIMITED})
"""Beside the three that every resource has; only where autoscaling is asked for."""

_EXPORTER: Final = (
    "let a DCGM exporter run on their nodes that knows pods (DCGM_EXPORTER_KUBERNETES=true), with the "
    "labels and the port that operator.dcgm of the chart says, and let the operator's namespace reach it"
)
_METRICS: Final = (
    "let the operator's namespace reach the pods' port http (NetworkPolicy, service mesh), and have "
    "them run a runtime that tells it at /metrics"
)


def unusual(told: Iterable[Condition]) -> list[Condition]:
    """Of these conditions, those that people should read."""
    usual = {SCALING_ACTIVE: "True", SCALING_LIMITED: "False"}
    return [c for c in told if c.type in CONDITIONS and c.status != usual[c.type]]


def number(signal: Signal, value: float) -> str:
    """A value as the status holds it: percent, requests, or milliseconds."""
    return f"{1000 * value:.0f}" if signal is Signal.TTFT else f"{value:.4g}"


def why(policy: Policy, before: Record, decision: Decision) -> str:
    """One sentence about a change of the number; empty where it stays."""
    after = decision.record.desired
    change = f"{_replicas(after)} in place of {before.desired}"
    match decision.cause:
        case Cause.BOUNDS:
            bound = "minReplicas" if after > before.desired else "maxReplicas"
            return f"spec.autoscaling.{bound} is {after}: {change}"
        case Cause.UP:
            most = max(decision.votes, key=lambda vote: vote.wanted or 0)
            return f"{_measured(most)}: {change}"
        case Cause.DOWN:
            told = ", ".join(map(_measured, decision.votes))
            text = f"fewer replicas would do, for {policy.down.window:g} s at least: {told}"
            return f"{text}: {change}"
        case Cause.NONE:
            return ""


def _replicas(count: int) -> str:
    return f"{count} replica" if count == 1 else f"{count} replicas"


def _measured(vote: Vote) -> str:
    assert vote.current is not None, "what votes was measured"
    unit = {Signal.WAITING: "", Signal.TTFT: " ms"}.get(vote.signal, " %")
    current, target = number(vote.signal, vote.current), number(vote.signal, vote.target)
    return f"{vote.signal} is {current}{unit}, with a target of {target}{unit}"


def held(record: Record, situation: Situation) -> Fact:
    """Where nobody knows what is to be served."""
    text = f"the number of replicas stays {record.desired}: {situation.message}"
    return Fact(SCALING_ACTIVE, "False", situation.reason, text)


def facts(owner: Deployment, policy: Policy, decision: Decision) -> tuple[Fact, ...]:
    """The conditions of the autoscaling."""
    if decision.blindness is Blindness.NOTHING_SEEN:
        return ()
    return (_active(owner, policy, decision), _limited(policy, decision))


def _active(owner: Deployment, policy: Policy, decision: Decision) -> Fact:
    match decision.blindness:
        case Blindness.STALE:
            text = f"nothing was measured for {policy.gap:g} s; see the operator's log"
            return Fact(SCALING_ACTIVE, "False", reasons.METRICS_STALE, text)
        case Blindness.NONE_READY:
            text = "no replica is ready, so that none tells its load; their number stays"
            return Fact(SCALING_ACTIVE, "False", reasons.NO_READY_REPLICA, text)
        case Blindness.MISSING:
            return _missing([vote for vote in decision.votes if not vote.is_whole])
    names = ", ".join(vote.signal.value for vote in decision.votes)
    text = f"the number of replicas follows {names}"
    if (
        policy.targets.gpu is None
        and owner.spec.autoscaling
        and owner.spec.autoscaling.gpu_utilization
    ):
        text += "; gpuUtilization has no meaning here, as the pods hold no GPU: remove it"
    return Fact(SCALING_ACTIVE, "True", reasons.METRICS_FOUND, text)


def _missing(silent: Sequence[Vote]) -> Fact:
    is_gpu = any(vote.signal is Signal.GPU for vote in silent)
    reason = reasons.GPU_METRICS_MISSING if is_gpu else reasons.METRICS_MISSING
    lacks = " and ".join(f"{vote.signal} of {_replicas(vote.missing)}" for vote in silent)
    remedies = [_EXPORTER] if is_gpu else []
    remedies += [_METRICS] if any(vote.signal is not Signal.GPU for vote in silent) else []
    text = f"replicas are added but not taken away, as nobody tells {lacks}; {'; '.join(remedies)}"
    return Fact(SCALING_ACTIVE, "False", reason, text)


def _limited(policy: Policy, decision: Decision) -> Fact:
    if decision.beyond is None or decision.record.desired < policy.maximum:
        return Fact(SCALING_LIMITED, "False", reasons.WITHIN_RANGE, "")
    text = (
        f"the load asks for more replicas than maxReplicas = {policy.maximum} allows; raise "
        "spec.autoscaling.maxReplicas where there are nodes for them"
    )
    return Fact(SCALING_LIMITED, "True", reasons.TOO_MANY_REPLICAS, text)


def events(
    owner: Deployment,
    before: Record,
    decision: Decision,
    told: Sequence[Fact],
    text: str,
    now: datetime,
) -> Iterator[Emit]:
    """A change of the number, and metrics that went or came back."""
    if decision.cause is not Cause.NONE:
        is_more = decision.record.desired > before.desired
        reason = reasons.SCALED_UP if is_more else reasons.SCALED_DOWN
        yield _event(owner, "Normal", reason, text, now)
    for fact in told:
        known = find(owner.status.conditions, fact.type)
        if fact.type == SCALING_ACTIVE and _is_transition(known.reason if known else None, fact):
            yield _event(owner, _level(fact), fact.reason, fact.message, now)


def _is_transition(known: str | None, fact: Fact) -> bool:
    """That it works from the beginning is no news, nor that a replica has to start first."""
    if fact.reason == known or fact.reason == reasons.NO_READY_REPLICA:
        return False
    return fact.status == "False" or known in _ALARMING


_ALARMING: Final = frozenset(
    {reasons.METRICS_STALE, reasons.METRICS_MISSING, reasons.GPU_METRICS_MISSING}
)


def _level(fact: Fact) -> Literal["Normal", "Warning"]:
    return "Normal" if fact.status == "True" else "Warning"


def _event(
    owner: Deployment, level: Literal["Normal", "Warning"], reason: str, note: str, now: datetime
) -> Emit:
    return Emit(owner.kind, owner.meta, level, reason, note[:NOTE_LIMIT], rfc3339(now))
