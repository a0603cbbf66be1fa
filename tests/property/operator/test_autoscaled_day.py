"""A day of load: quiet at night, busy at noon, with bursts; every look of it is decided on, in no time."""

import math
import random

import pytest

from pitcrew_operator.plan.autoscaling.decision import Cause, Record
from pitcrew_operator.plan.autoscaling.looks import Replica
from tests.property.operator.load import EVERY, Service, busy, policy

HOUR = int(3600 / EVERY)
STARTUP = 180.0


def load(look: int, chance: random.Random) -> float:
    """Percent of one replica's GPUs: from 50 at night to 650 in the afternoon, and noise of a tenth."""
    hour = look / HOUR
    daily = 350 - 300 * math.cos(2 * math.pi * (hour - 3) / 24)
    burst = 200 if 10 <= hour < 10.5 else 0
    return max(0.0, (daily + burst) * chance.gauss(1.0, 0.05))


@pytest.fixture(scope="module")
def day() -> tuple[Service, list[tuple[float, int, int]]]:
    """The service in the evening, and (load, ready, desired) at each look."""
    chance = random.Random(7)
    service = Service(policy(1, 12), Record(1), startup=STARTUP)
    seen = []
    for look in range(24 * HOUR):
        amount = load(look, chance)
        decision = service.pass_look(amount)
        seen.append((amount, service.ready, decision.record.desired))
    return service, seen


Day = tuple[Service, list[tuple[float, int, int]]]


def test_it_follows_the_day_up_and_down(day: Day) -> None:
    _, seen = day
    at = {hour: seen[hour * HOUR][2] for hour in (3, 9, 15, 21)}
    assert at[3] <= 2
    assert 4 <= at[9] <= 8
    assert at[15] >= 9, "650 % at a target of 80 % are 8.1 replicas, and noise"
    assert 4 <= at[21] <= 9
    assert seen[-1][2] < at[15]


def test_it_is_overloaded_for_as_long_as_replicas_take_to_start_at_most(day: Day) -> None:
    """No look finds all GPUs busy for longer than two startups."""
    _, seen = day
    longest = current = 0
    for amount, ready, _ in seen:
        current = current + 1 if amount > 100 * ready else 0
        longest = max(longest, current)
    assert longest * EVERY <= 2 * STARTUP + 2 * EVERY


def test_it_takes_few_steps(day: Day) -> None:
    """The load needs eight more and eight fewer, and a burst on the way; noise is no reason to turn."""
    service, _ = day
    assert len(service.steps) <= 30
    turns = sum(
        one is not other for one, other in zip(service.steps, service.steps[1:], strict=False)
    )
    assert turns <= 8


def test_replicas_are_not_idle_for_long(day: Day) -> None:
    _, seen = day
    wanted = sum(max(1, math.ceil(amount / 80)) for amount, _, _ in seen)
    had = sum(desired for _, _, desired in seen)
    assert had <= 1.15 * wanted


def test_an_exporter_that_dies_at_night_costs_replicas_and_no_request() -> None:
    """From 20 h on nobody tells anything: what was needed stays."""
    chance, silent = random.Random(7), False

    def measure(amount: float, ready: int) -> tuple[Replica, ...]:
        return (Replica(),) * ready if silent else busy(amount, ready)

    service = Service(policy(1, 12), Record(1), measure=measure, startup=STARTUP)
    for look in range(24 * HOUR):
        silent = look >= 20 * HOUR
        if look == 20 * HOUR:
            before, decided = service.record.desired, len(service.decisions)
        service.pass_look(load(look, chance))
    assert service.record.desired == before
    assert all(d.cause is Cause.NONE for d in service.decisions[decided:])
