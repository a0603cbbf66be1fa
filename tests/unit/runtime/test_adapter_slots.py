import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pitcrew_runtime.core.adapters import NO_ADAPTER, AdapterSlots, NoSlotFree
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import Finish, Request
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.errors import InvalidRequest, InvariantViolated
from pitcrew_runtime.testing import EchoExecutor, NamedAdapter

A, B, C = (NamedAdapter(name) for name in "abc")


def test_no_adapter_needs_no_slot() -> None:
    slots = AdapterSlots(0)
    assert slots.has_room(None)
    assert slots.take(None) == NO_ADAPTER
    slots.release(NO_ADAPTER)


def test_the_least_recently_used_gives_way() -> None:
    slots = AdapterSlots(2)
    first, second = slots.take(A), slots.take(B)
    slots.release(second)
    slots.release(first)
    assert slots.take(C) == second
    assert slots.take(A) == first, "still there"


def test_a_pinned_adapter_stays() -> None:
    slots = AdapterSlots(1)
    slot = slots.take(A)
    assert slots.take(A) == slot
    slots.release(slot)
    assert not slots.has_room(B)
    with pytest.raises(NoSlotFree, match="all 1 adapter slots"):
        slots.take(B)
    slots.release(slot)
    assert slots.take(B) == slot


def test_an_idle_slot_keeps_no_weights_alive() -> None:
    slots = AdapterSlots(1)
    slots.release(slots.take(A))
    assert not slots.pinned


def test_a_release_without_a_pin_is_a_fault() -> None:
    with pytest.raises(InvariantViolated, match="slot 1"):
        AdapterSlots(1).release(1)


class SlotsMachine(RuleBasedStateMachine):
    """Beside a model that is no more than a list of (slot, identity) pins."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = AdapterSlots(2)
        self.pins: list[tuple[int, str]] = []

    @rule(name=st.sampled_from("abcd"))
    def take(self, name: str) -> None:
        held = {identity for _, identity in self.pins}
        if name not in held and len(held) == 2:
            assert not self.slots.has_room(NamedAdapter(name))
            return
        assert self.slots.has_room(NamedAdapter(name))
        self.pins.append((self.slots.take(NamedAdapter(name)), name))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.pins) - 1))
        self.slots.release(self.pins.pop(index)[0])

    @invariant()
    def each_slot_has_one_adapter(self) -> None:
        pinned = {slot: adapter.identity for slot, adapter in self.slots.pinned.items()}
        assert pinned == dict(self.pins)
        assert len(set(pinned.values())) == len(pinned)
        assert set(pinned) <= {1, 2}


TestSlotsMachine = SlotsMachine.TestCase


def scheduler(slots: int) -> Scheduler:
    return Scheduler(Limits(8, 32, 8, 64, 4), PageAllocator(64), AdapterSlots(slots))


def running(heart: Scheduler, executor: EchoExecutor) -> list[int]:
    plan = heart.plan(0.0)
    heart.commit(plan, executor.execute(plan.batch))
    return [row.sequence_id for row in plan.batch.rows]


def test_who_waits_for_a_slot_is_passed_by_those_that_need_none() -> None:
    heart, executor = scheduler(1), EchoExecutor(64, 4)
    for number, adapter in enumerate((A, B, None, A)):
        heart.add(Request(number, (1,), 2, 0.0, adapter=adapter))
    assert running(heart, executor) == [0, 2], "3 would keep 1 out of the only slot"
    assert running(heart, executor) == [0, 2]
    assert running(heart, executor) == [1], "3 needs the slot that 1 has"


def test_cancelling_who_waits_for_a_slot_lets_the_next_one_in() -> None:
    heart, executor = scheduler(1), EchoExecutor(64, 4)
    for number, adapter in enumerate((A, B, A)):
        heart.add(Request(number, (1,), 8, 0.0, adapter=adapter))
    assert running(heart, executor) == [0]
    heart.cancel(1)
    plan = heart.plan(0.0)
    assert [(update.request_id, update.finish) for update in plan.ended] == [(1, Finish.CANCELLED)]
    assert [row.slot for row in plan.batch.rows] == [1, 1]


def test_an_engine_without_slots_refuses_adapters() -> None:
    with pytest.raises(InvalidRequest, match="takes no adapters") as refused:
        scheduler(0).add(Request(1, (1,), 2, 0.0, adapter=A))
    assert refused.value.param == "model"
