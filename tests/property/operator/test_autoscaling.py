"""What must hold of every decision on the number of replicas, whatever is measured."""

import math
from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from pitcrew_operator.plan.autoscaling.decision import (
    Blindness,
    Cause,
    Decision,
    Pace,
    Policy,
    Record,
    decide,
)
from pitcrew_operator.plan.autoscaling.looks import Look, Replica
from pitcrew_operator.plan.autoscaling.votes import Signal, Targets, asked, votes
from tests.property.operator.load import AT_ONCE, BEGIN, EVERY, Service, busy, policy

SLOTS = 8

percents = st.floats(0, 100)
maybe = st.one_of(st.none(), percents)
replicas = st.builds(
    Replica, gpu=maybe, waiting=st.one_of(st.none(), st.floats(0, 200)),
    running=st.floats(0, SLOTS), kv=maybe,
)  # fmt: skip
whole = st.builds(
    Replica, gpu=percents, waiting=st.floats(0, 200), running=st.floats(0, SLOTS), kv=percents
)
"""A replica that tells everything."""
seconds = st.one_of(st.none(), st.floats(0, 60))
targets = st.builds(
    Targets,
    gpu=st.one_of(st.none(), st.integers(1, 99)),
    waiting=st.one_of(st.none(), st.integers(1, 50)),
    kv=st.integers(1, 99),
    first_token=st.one_of(st.none(), st.floats(0.001, 10)),
    slots=st.just(SLOTS),
)
paces = st.builds(
    Pace,
    window=st.sampled_from([0, 30, 300]),
    replicas=st.integers(0, 5),
    percent=st.integers(0, 100),
    period=st.sampled_from([0, 15, 600]),
    tolerance=st.sampled_from([0.0, 0.1]),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    minimum = draw(st.integers(1, 8))
    return Policy(
        minimum,
        draw(st.integers(minimum, 12)),
        draw(targets),
        draw(paces),
        draw(paces),
        patience=draw(st.sampled_from([0, 60, 1920])),
        gap=3 * EVERY,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Look, ...]:
    """Looks, some of them late, the newest first."""
    pauses = draw(st.lists(st.sampled_from([5.0, EVERY, 2 * EVERY, 50.0]), max_size=25))
    looks, age = [], draw(st.sampled_from([0.0, 10.0, 44.0, 46.0]))
    for pause in pauses:
        told = draw(st.lists(replicas, max_size=4).map(tuple))
        looks.append(Look(age, told, draw(seconds), draw(st.integers(0, 1))))
        age += pause
    return tuple(looks)


records = st.builds(
    Record,
    desired=st.integers(0, 14),
    scaled=st.one_of(
        st.none(), st.integers(-5000, 5000).map(lambda s: BEGIN + timedelta(seconds=s))
    ),
    warming=st.booleans(),
)


@given(policies(), records, histories())
def test_the_number_is_within_its_bounds_whatever_was_recorded(
    asked_for: Policy, record: Record, looks: tuple[Look, ...]
) -> None:
    decision = decide(asked_for, record, looks, BEGIN)
    assert asked_for.minimum <= decision.record.desired <= asked_for.maximum
    if not asked_for.minimum <= record.desired <= asked_for.maximum:
        assert decision.cause is Cause.BOUNDS


@given(policies(), records, histories())
def test_a_decision_is_not_taken_twice(
    asked_for: Policy, record: Record, looks: tuple[Look, ...]
) -> None:
    """The same evidence, looked at again at once, takes no further step up; nor down within a period."""
    first = decide(asked_for, record, looks, BEGIN)
    second = decide(asked_for, first.record, looks, BEGIN)
    if first.cause in (Cause.UP, Cause.BOUNDS) and first.record.warming and asked_for.patience:
        covered = looks and len(looks[0].replicas) >= first.record.desired
        assert covered or second.cause is not Cause.UP
    if first.cause is Cause.DOWN and asked_for.down.period:
        assert second.cause is not Cause.DOWN


@given(policies(), records, histories())
def test_nothing_is_taken_away_where_something_is_unknown(
    asked_for: Policy, record: Record, looks: tuple[Look, ...]
) -> None:
    decision = decide(asked_for, record, looks, BEGIN)
    if decision.cause is not Cause.DOWN:
        return
    assert decision.blindness is None
    assert looks[0].age <= asked_for.gap
    window = [look for look in looks if look.age < asked_for.down.window] or [looks[0]]
    for look in window:
        assert look.replicas
        found = votes(asked_for.targets, look)
        assert all(vote.is_whole for vote in found)
        assert (asked(found) or 0) <= decision.record.desired
    assert max(look.age for look in looks) >= asked_for.down.window


@given(policies(), records, histories())
def test_steps_are_as_long_as_allowed_at_most(
    asked_for: Policy, record: Record, looks: tuple[Look, ...]
) -> None:
    decision = decide(asked_for, record, looks, BEGIN)
    change = decision.record.desired - record.desired
    if decision.cause is Cause.UP:
        assert 0 < change <= asked_for.up.step(record.desired)
    if decision.cause is Cause.DOWN:
        assert 0 < -change <= asked_for.down.step(record.desired)


@given(
    targets,
    st.lists(whole, min_size=1, max_size=6),
    st.floats(0, 60),
    st.integers(1, 6),
    st.integers(1, 20),
)
def test_any_signal_above_its_target_adds_replicas(
    held_against: Targets, told: list[Replica], first_token: float, desired: int, room: int
) -> None:
    desired = min(desired, len(told))
    asked_for = policy(maximum=desired + room, targets=held_against, up=AT_ONCE)
    look = Look(0.0, tuple(told), first_token)
    decision = decide(asked_for, Record(desired), (look,), BEGIN)
    if any(vote.is_above for vote in votes(held_against, look)):
        assert decision.cause is Cause.UP


@given(st.integers(1, 6), st.floats(80.0001, 100), st.floats(0, 80))
def test_eighty_percent_exactly_is_the_line(present: int, above: float, at_most: float) -> None:
    line = policy(up=AT_ONCE)
    more = decide(line, Record(present), (Look(0.0, busy(above * present, present)),), BEGIN)
    assert more.cause is Cause.UP
    for percent in (80.0, at_most):
        looks = (Look(0.0, busy(percent * present, present)),)
        assert decide(line, Record(present), looks, BEGIN).cause is Cause.NONE


@given(targets, st.lists(replicas, min_size=1, max_size=5), st.integers(0, 4), st.floats(0, 100))
def test_more_load_never_asks_for_fewer(
    held_against: Targets, told: list[Replica], which: int, more: float
) -> None:
    one = told[which % len(told)]
    heavier = replace(
        one,
        gpu=None if one.gpu is None else min(100.0, one.gpu + more),
        waiting=None if one.waiting is None else one.waiting + more,
        running=None if one.running is None else min(float(SLOTS), one.running + more),
        kv=None if one.kv is None else min(100.0, one.kv + more),
    )
    heavy = [heavier if replica is one else replica for replica in told]
    before = asked(votes(held_against, Look(0.0, tuple(told))))
    after = asked(votes(held_against, Look(0.0, tuple(heavy))))
    assert (before or 0) <= (after or 0)


@given(policies(), records, histories(), st.integers(1, 10**7))
def test_a_clock_that_goes_back_takes_nothing_away_that_would_have_stayed(
    asked_for: Policy, record: Record, looks: tuple[Look, ...], back: int
) -> None:
    """Looks have a clock of their own; what is left of the wall clock are the pauses between steps."""
    now = decide(asked_for, record, looks, BEGIN)
    earlier = BEGIN - timedelta(seconds=back)
    jumped = decide(asked_for, record, looks, earlier)
    stepped = decide(asked_for, replace(record, scaled=BEGIN), looks, BEGIN)
    assert jumped.record.desired in (now.record.desired, stepped.record.desired)
    if record.scaled is not None and record.scaled > earlier:
        assert jumped.record.desired == stepped.record.desired
        assert jumped.record.scaled == earlier


@given(policies(), records, histories())
def test_an_unbroken_row_of_looks_is_needed(
    asked_for: Policy, record: Record, looks: tuple[Look, ...]
) -> None:
    stale = tuple(replace(look, age=look.age + asked_for.gap + 1) for look in looks)
    decision = decide(asked_for, record, stale, BEGIN)
    assert decision.cause in (Cause.NONE, Cause.BOUNDS)
    assert decision.blindness is (Blindness.STALE if looks else Blindness.NOTHING_SEEN)


def queued(load: float, present: int) -> tuple[Replica, ...]:
    """So many requests at a time, of which each replica runs as many as fit."""
    each = load / present
    one = Replica(running=min(SLOTS, each), waiting=max(0.0, each - SLOTS), kv=min(100, 10 * each))
    return (one,) * present


@settings(deadline=None, max_examples=25)
@given(
    st.floats(0, 1500), st.integers(1, 5), st.integers(5, 15), st.integers(1, 15),
    st.sampled_from([30.0, 120.0, 600.0]), st.booleans(),
)  # fmt: skip
def test_a_constant_load_comes_to_rest(
    load: float, minimum: int, maximum: int, start: int, startup: float, by_queue: bool
) -> None:
    held_against = Targets(waiting=5, kv=80, slots=SLOTS) if by_queue else Targets(gpu=80)
    asked_for = policy(minimum, maximum, targets=held_against)
    amount = load / 10 if by_queue else load
    service = Service(
        asked_for,
        Record(asked_for.bounded(start)),
        measure=queued if by_queue else busy,
        startup=startup,
    )
    for _ in range(500):
        service.pass_look(amount)
    rest = service.record.desired
    turns = [step for step in service.steps if step is not Cause.BOUNDS]
    assert len(set(turns)) <= 1, "it went both ways"
    per_replica = 8.0 if by_queue else 80.0
    assert rest == asked_for.bounded(math.ceil(amount / per_replica * (1 - 1e-9)))
    before = len(service.steps)
    for _ in range(60):
        service.pass_look(amount)
    assert len(service.steps) == before


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 900)), min_size=1, max_size=12), st.data()
)
def test_whatever_the_load_does_the_promises_hold(
    phases: list[tuple[int, float]], data: st.DataObject
) -> None:
    service = Service(policy(2, 9), Record(2))
    for looks, load in phases:
        for _ in range(looks):
            before = service.record
            decision = service.pass_look(load)
            check(service, before, decision)
        if data.draw(st.booleans()):
            service.now -= timedelta(hours=data.draw(st.integers(1, 48)))


def check(service: Service, before: Record, decision: Decision) -> None:
    after = decision.record.desired
    assert 2 <= after <= 9
    newest = service.looks[0][1].replicas
    if after > before.desired:
        assert not before.warming or len(newest) >= before.desired
        (vote,) = (v for v in decision.votes if v.signal is Signal.GPU)
        assert vote.is_above
    if after < before.desired:
        recent = [look for at, look in service.looks if service.clock - at < 300]
        assert all(sum(r.gpu or 0 for r in look.replicas) <= 80 * after + 1e-6 for look in recent)
