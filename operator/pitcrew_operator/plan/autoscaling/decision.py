"""The number of replicas: more as soon as one signal asks for them, fewer when all have agreed for a while.

Asked again with what it recorded, it goes on from there. What it does not know holds replicas where they
are, and never keeps it from adding more. A wall clock that goes back makes it wait as after a step, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from pitcrew_operator.plan.autoscaling.looks import Look, within
from pitcrew_operator.plan.autoscaling.votes import Targets, Vote, asked, votes


@dataclass(frozen=True)
class Pace:
    """How fast replicas come, or go. Times in seconds."""

    window: float
    """For which all looks have to ask for it."""
    replicas: int
    """Of one step at most, or"""
    percent: int
    """of the present ones, whichever is more."""
    period: float
    """From one step to the next at least."""
    tolerance: float = 0.0
    """Part of each target that the replicas that stay have to leave free."""

    def step(self, present: int) -> int:
        """Replicas that one step may change."""
        return max(self.replicas, present * self.percent // 100)


@dataclass(frozen=True)
class Policy:
    """What the spec asks for. Times in seconds."""

    minimum: int
    maximum: int
    targets: Targets
    up: Pace
    down: Pace
    patience: float
    """That replicas of a step up get to serve, before another may follow without them."""
    gap: float
    """Looks that lie further apart, or in the past, leave unknown what was in between."""

    def bounded(self, replicas: int) -> int:
        """The nearest number within the bounds."""
        return max(self.minimum, min(replicas, self.maximum))


@dataclass(frozen=True)
class Record:
    """What has to be remembered from one decision to the next."""

    desired: int
    scaled: datetime | None = None
    """When `desired` changed last."""
    warming: bool = False
    """The replicas of the last step up were not all seen to serve yet."""

    def since(self, now: datetime) -> float:
        """Seconds since the last change; infinite where there was none."""
        return (now - self.scaled).total_seconds() if self.scaled else float("inf")

    def by(self, now: datetime) -> "Record":
        """By a clock that went back since, the last change is no longer ago than now."""
        return self if self.scaled is None or self.scaled <= now else replace(self, scaled=now)


class Cause(Enum):
    """What made the number what it is now."""

    NONE = "none"
    BOUNDS = "bounds"
    UP = "up"
    DOWN = "down"


class Blindness(Enum):
    """Why replicas cannot be taken away, whatever the load."""

    NOTHING_SEEN = "nothing seen"
    """No look came yet, or no replica was measured for the first time yet."""
    STALE = "stale"
    """The last look is too long ago."""
    NONE_READY = "none ready"
    MISSING = "missing"
    """Replicas do not tell what was asked of them."""


@dataclass(frozen=True)
class Decision:
    """The record after it, and what it rests on."""

    record: Record
    cause: Cause = Cause.NONE
    votes: tuple[Vote, ...] = ()
    """Of the newest look."""
    blindness: Blindness | None = None
    beyond: int | None = None
    """Replicas that the load would ask for, where `maximum` forbids them."""


def decide(policy: Policy, before: Record, looks: Sequence[Look], now: datetime) -> Decision:
    """The decision after these looks, the newest first."""
    record = before.by(now)
    if record.desired != policy.bounded(record.desired):
        bounded = policy.bounded(record.desired)
        return Decision(
            Record(bounded, now, warming=bounded > record.desired),
            Cause.BOUNDS,
            _seen(policy, looks),
            _blindness(policy, looks),
        )
    record = replace(record, warming=_is_warming(record, looks, policy))
    decision = Decision(
        record,
        votes=_seen(policy, looks),
        blindness=_blindness(policy, looks),
        beyond=_beyond(policy, looks),
    )
    more = _more(policy, record, looks, now)
    if more is not None:
        return replace(decision, record=Record(more, now, warming=True), cause=Cause.UP)
    fewer = _fewer(policy, record, looks, now) if decision.blindness is None else None
    if fewer is not None:
        return replace(decision, record=Record(fewer, now), cause=Cause.DOWN)
    return decision


def _seen(policy: Policy, looks: Sequence[Look]) -> tuple[Vote, ...]:
    newest = within(looks, 0, policy.gap)
    return votes(policy.targets, newest[0]) if newest else ()


def _is_warming(record: Record, looks: Sequence[Look], policy: Policy) -> bool:
    """Until a look has found as many replicas as were decided."""
    newest = within(looks, 0, policy.gap)
    return record.warming and not (newest and len(newest[0].replicas) >= record.desired)


def _more(policy: Policy, record: Record, looks: Sequence[Look], now: datetime) -> int | None:
    """Where the last step still warms, what is seen is what led to it."""
    since = record.since(now)
    if since < policy.up.period or (record.warming and since < policy.patience):
        return None
    covered = within(looks, policy.up.window, policy.gap)
    wishes = [asked(votes(policy.targets, look)) for look in covered or ()]
    known = [wish for wish in wishes if wish is not None]
    if not known or len(known) < len(wishes):
        return None
    more = min(min(known), record.desired + policy.up.step(record.desired), policy.maximum)
    return more if more > record.desired else None


def _fewer(policy: Policy, record: Record, looks: Sequence[Look], now: datetime) -> int | None:
    if record.since(now) < policy.down.period:
        return None
    most = _most(policy, looks)
    if most is None:
        return None
    fewer = max(most, record.desired - policy.down.step(record.desired), policy.minimum)
    return fewer if fewer < record.desired else None


def _most(policy: Policy, looks: Sequence[Look]) -> int | None:
    """Replicas that the load of any look of the window needs; None where not all of it is known."""
    covered = within(looks, policy.down.window, policy.gap)
    if covered is None:
        return None
    targets = policy.targets.below(policy.down.tolerance)
    found = [votes(targets, look) for look in covered]
    if not all(vote.is_whole for each in found for vote in each):
        return None
    wishes = [asked(each) for each in found]
    known = [wish for wish in wishes if wish is not None]
    return max(known) if len(known) == len(wishes) else None


def _beyond(policy: Policy, looks: Sequence[Look]) -> int | None:
    """From one look of the window that asked for too many, until none of it does."""
    recent = [look for look in looks if look.age <= max(policy.down.window, policy.gap)]
    wishes = [asked(votes(policy.targets, look)) or 0 for look in recent]
    most = max(wishes, default=0)
    return most if most > policy.maximum else None


def _blindness(policy: Policy, looks: Sequence[Look]) -> Blindness | None:
    if not looks:
        return Blindness.NOTHING_SEEN
    newest = looks[0]
    if newest.age > policy.gap:
        return Blindness.STALE
    if not newest.replicas:
        return Blindness.NOTHING_SEEN if newest.young else Blindness.NONE_READY
    whole = all(vote.is_whole for vote in votes(policy.targets, newest))
    return None if whole else Blindness.MISSING
