import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.prefix import KeyChain
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.core.sequence import Sequence
from pitcrew_runtime.core.waiting import PATIENCE, Policy, WaitingRoom
from pitcrew_runtime.testing import NamedAdapter, NullExecutor


def sequence(
    serial: int,
    length: int = 1,
    arrival: float = 0.0,
    adapter: NamedAdapter | None = None,
    *,
    number: int | None = None,
    priority: int = 0,
) -> Sequence:
    number = serial if number is None else number
    request = Request(number, (0,) * length, 1, arrival, adapter=adapter, priority=priority)
    return Sequence(request, serial, KeyChain(b"", 4))


def order(room: WaitingRoom) -> list[int]:
    return [room.pop().id for _ in range(len(room))]


def test_first_come_first_served() -> None:
    room = WaitingRoom(Policy.FCFS)
    for serial, length in ((1, 900), (2, 3), (3, 50)):
        room.push(sequence(serial, length))
    assert order(room) == [1, 2, 3]


def test_short_prompts_go_first_until_long_ones_have_aged() -> None:
    room = WaitingRoom(Policy.SHORTEST_FIRST, ageing=100)
    room.push(sequence(1, length=500, arrival=0.0))
    room.push(sequence(2, length=10, arrival=1.0))
    room.push(sequence(3, length=10, arrival=6.0))
    assert order(room) == [2, 1, 3]


@given(
    st.lists(st.tuples(st.integers(1, 30_000), st.floats(0, 200), st.integers(0, 3)), max_size=40),
    st.sampled_from([1.0, 256.0, 5000.0]),
)
def test_nobody_is_passed_by_one_who_comes_much_later(
    everyone: list[tuple[int, float, int]], ageing: float
) -> None:
    """Whatever the lengths, the times and the moments at which somebody is admitted."""
    room = WaitingRoom(Policy.SHORTEST_FIRST, ageing)
    waiting: dict[int, float] = {}
    for serial, (length, arrival, admitted) in enumerate(sorted(everyone, key=lambda one: one[1])):
        room.push(sequence(serial, length, arrival))
        waiting[serial] = arrival
        for _ in range(min(admitted, len(room))):
            came = waiting.pop(room.pop().id)
            assert all(came <= other + PATIENCE + 1e-6 for other in waiting.values())


@pytest.mark.parametrize("policy", Policy)
def test_a_long_prompt_is_served_under_any_load(policy: Policy) -> None:
    """Twice as many short ones as can be served keep the queue full."""
    limits = Limits(1, 40_000, 16, 40_000, page_size=64, policy=policy)
    engine = Engine(Scheduler(limits, PageAllocator(700)), NullExecutor(700))
    engine.submit(Request(-1, (0,), 2, 0.0))
    engine.submit(Request(-2, (0,) * 30_000, 1, 0.0))
    for step in range(1000):
        now = step / 10
        for number in (2 * step, 2 * step + 1):
            if engine.gauges().waiting < limits.max_waiting:
                engine.submit(Request(number, (1, 2), 1, now))
        if any(update.request_id == -2 for update in engine.step(now).updates):
            assert now < PATIENCE + limits.max_waiting / 10 + 1
            return
    pytest.fail("it starved")


def test_who_has_run_before_goes_first() -> None:
    room = WaitingRoom(Policy.SHORTEST_FIRST)
    preempted = sequence(9, length=1000)
    preempted.started = True
    room.push(sequence(1))
    room.push(preempted)
    assert order(room) == [9, 1]


def test_discarded_ones_take_no_room() -> None:
    room = WaitingRoom()
    everyone = [sequence(serial) for serial in range(1000)]
    for one in everyone:
        room.push(one)
    for one in everyone[:-1]:
        room.discard(one)
    assert len(room) == 1
    assert len(room._plain._heap) < 100
    assert room.peek() is everyone[-1]


def test_who_needs_no_adapter_can_be_asked_for() -> None:
    room = WaitingRoom()
    room.push(sequence(1, adapter=NamedAdapter("a")))
    room.push(sequence(2))
    first, plain = room.peek(), room.peek(adapters=False)
    assert first is not None
    assert plain is not None
    assert (first.id, plain.id) == (1, 2)
    assert room.pop(adapters=False).id == 2
    assert room.peek(adapters=False) is None
    assert order(room) == [1]


def test_an_id_that_comes_back_is_somebody_new() -> None:
    room = WaitingRoom()
    gone = sequence(1, number=5)
    room.push(gone)
    room.discard(gone)
    room.push(sequence(2, length=7, number=5))
    assert len(room.pop().request.prompt) == 7
    assert room.peek() is None


def test_priority_comes_before_everything_else() -> None:
    room = WaitingRoom(Policy.SHORTEST_FIRST)
    preempted = sequence(1)
    preempted.started = True
    room.push(preempted)
    room.push(sequence(2, length=1000, arrival=9.0, priority=-1))
    room.push(sequence(3, priority=1))
    assert order(room) == [2, 1, 3]


def test_forks_of_running_ones_are_not_made_to_queue_again() -> None:
    room = WaitingRoom()
    fork = sequence(2)
    fork.parent = sequence(0)
    room.push(sequence(1))
    room.push(fork)
    assert order(room) == [2, 1]
