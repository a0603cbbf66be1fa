"""A service under load, for tests of autoscaling: replicas share it, and start after a while."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pitcrew_operator.plan.autoscaling.decision import (
    Cause,
    Decision,
    Pace,
    Policy,
    Record,
    decide,
)
from pitcrew_operator.plan.autoscaling.looks import Look, Replica
from pitcrew_operator.plan.autoscaling.votes import Targets

BEGIN = datetime(2026, 11, 2, tzinfo=UTC)
EVERY = 15.0
"""Seconds from look to look."""
UP, DOWN = Pace(30, 4, 100, 15), Pace(300, 1, 10, 60)
AT_ONCE = Pace(0, 4, 100, 15)
"""A step up after one look."""


def policy(minimum: int = 1, maximum: int = 10, **more: object) -> Policy:
    """The defaults of the API, for GPUs."""
    base = Policy(minimum, maximum, Targets(gpu=80), UP, DOWN, patience=1920, gap=3 * EVERY)
    return replace(base, **more)  # type: ignore[arg-type]


def busy(load: float, replicas: int) -> tuple[Replica, ...]:
    """Replicas whose GPUs share a load in percent of one, and cannot do more than they can."""
    each = min(100.0, load / replicas) if replicas else 0.0
    return tuple(Replica(gpu=each) for _ in range(replicas))


@dataclass
class Service:
    """Time passes look by look. `measure` tells what so many ready replicas tell of a load."""

    policy: Policy
    record: Record
    measure: Callable[[float, int], tuple[Replica, ...]] = busy
    startup: float = 120.0
    """Seconds until a new replica is ready."""
    now: datetime = BEGIN
    clock: float = 0.0
    starting: list[float] = field(default_factory=list)
    """When those that start will be ready."""
    ready: int = 0
    looks: deque[tuple[float, Look]] = field(default_factory=deque)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ready = self.record.desired

    def pass_look(self, load: float) -> Decision:
        """One interval later: replicas that were decided come or go, are looked at, and so on."""
        self.clock += EVERY
        self.now += timedelta(seconds=EVERY)
        self._move()
        self.looks.appendleft((self.clock, Look(0.0, self.measure(load, self.ready))))
        while self.looks[-1][0] < self.clock - max(self.policy.down.window, EVERY) - 2 * EVERY:
            self.looks.pop()
        return self.decide()

    def decide(self) -> Decision:
        """Decide on what was seen so far."""
        looks = [replace(look, age=self.clock - at) for at, look in self.looks]
        decision = decide(self.policy, self.record, looks, self.now)
        self.record = decision.record
        self.decisions.append(decision)
        return decision

    def _move(self) -> None:
        self.ready += sum(due <= self.clock for due in self.starting)
        self.starting = [due for due in self.starting if due > self.clock]
        surplus = self.ready + len(self.starting) - self.record.desired
        if surplus > 0:
            idle = min(surplus, len(self.starting))
            del self.starting[len(self.starting) - idle :]
            self.ready -= surplus - idle
        self.starting += [self.clock + self.startup] * max(0, -surplus)

    @property
    def steps(self) -> list[Cause]:
        """What has changed the number so far."""
        return [d.cause for d in self.decisions if d.cause is not Cause.NONE]
