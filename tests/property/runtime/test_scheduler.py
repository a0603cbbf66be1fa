"""The scheduler under random lives: whatever happens, each request's tokens are its own."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.batch import StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import Finish, Request
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.errors import QueueFull
from pitcrew_runtime.testing import EchoExecutor, NamedAdapter, continuation

MAX_LENGTH = 24
SLOTS = 2
ADAPTERS = ("a", "b", "c")
"""More than there are slots for."""


@dataclass(frozen=True)
class Life:
    """One request and when it comes and goes, in steps."""

    prompt: tuple[int, ...]
    max_tokens: int
    arrives: int
    cancelled: int | None
    stop: frozenset[int]
    adapter: str = ""


@st.composite
def lives(draw: st.DrawFn) -> Life:
    prompt = draw(st.lists(st.integers(0, 255), min_size=1, max_size=MAX_LENGTH - 1))
    return Life(
        tuple(prompt),
        draw(st.integers(1, MAX_LENGTH - len(prompt))),
        draw(st.integers(0, 12)),
        draw(st.none() | st.integers(0, 30)),
        draw(st.sets(st.integers(0, 255), max_size=20).map(frozenset)),
        draw(st.sampled_from(("", *ADAPTERS))),
    )


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    running = draw(st.integers(1, 6))
    return Limits(
        max_running=running,
        max_step_tokens=running + draw(st.integers(1, 12)),
        max_waiting=draw(st.integers(1, 12)),
        max_sequence_length=MAX_LENGTH,
        page_size=draw(st.integers(1, 9)),
        policy=draw(st.sampled_from(Policy)),
    )


class FlakyExecutor(EchoExecutor):
    """Fails in the given executions, after it has scribbled into the pages."""

    def __init__(self, pages: int, page_size: int, failing: frozenset[int]) -> None:
        super().__init__(pages, page_size)
        self._failing, self._count = failing, 0

    def execute(self, batch: StepBatch) -> list[Chosen]:
        self._count += 1
        results = super().execute(batch)
        if self._count in self._failing:
            raise RuntimeError("the device fell off")
        return results


@dataclass
class World:
    """Runs lives to their ends and remembers every update."""

    limits: Limits
    pages: int
    failing: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.allocator = PageAllocator(self.pages)
        self.slots = AdapterSlots(SLOTS)
        self.scheduler = Scheduler(self.limits, self.allocator, self.slots)
        self.engine = Engine(
            self.scheduler, FlakyExecutor(self.pages, self.limits.page_size, self.failing)
        )
        self.tokens: dict[int, list[int]] = {}
        self.ends: dict[int, list[Finish]] = {}
        self.refused: set[int] = set()

    def run(self, everyone: list[Life]) -> None:
        for step in range(2000):
            for number, life in enumerate(everyone):
                if life.arrives == step:
                    self._submit(number, life, step)
                if life.cancelled == step:
                    self.engine.cancel(number)
            if step > 30 and self.engine.idle:
                return
            self._step(step)
        pytest.fail("the engine never became idle")

    def holdings(self) -> dict[int, int]:
        return {owner: len(self.allocator.pages_of(owner)) for owner in self.allocator.owners}

    def _submit(self, number: int, life: Life, step: int) -> None:
        request = Request(
            number,
            life.prompt,
            life.max_tokens,
            float(step),
            stop_tokens=life.stop,
            adapter=NamedAdapter(life.adapter) if life.adapter else None,
        )
        try:
            self.engine.submit(request)
        except QueueFull:
            self.refused.add(number)
        else:
            self.tokens[number], self.ends[number] = [], []

    def _step(self, step: int) -> None:
        report = self.engine.step(float(step))
        assert report.rows <= self.limits.max_running
        assert report.tokens <= self.limits.max_step_tokens
        self.allocator.audit()
        for update in report.updates:
            assert not self.ends[update.request_id], "news after the end"
            if update.sampled is not None:
                self.tokens[update.request_id].append(update.sampled.token)
            if update.finish is not None:
                self.ends[update.request_id].append(update.finish)


def alone(life: Life) -> list[int]:
    tokens = []
    for token in continuation(life.prompt, life.max_tokens, life.adapter):
        tokens.append(token)
        if token in life.stop:
            break
    return tokens


def pool_for(limits: Limits, spare: int) -> int:
    """At least one longest sequence, or the request would be refused at once."""
    return -(-MAX_LENGTH // limits.page_size) + spare


@given(limits(), st.integers(0, 12), st.lists(lives(), max_size=14))
def test_output_equals_running_alone(limits: Limits, spare: int, everyone: list[Life]) -> None:
    world = World(limits, pool_for(limits, spare))
    world.run(everyone)
    assert world.allocator.free == world.allocator.total
    assert not world.slots.pinned
    for number, life in enumerate(everyone):
        if number in world.refused:
            continue
        expected = alone(life)
        (end,) = world.ends[number]
        if end is Finish.CANCELLED:
            assert life.cancelled is not None
            assert world.tokens[number] == expected[: len(world.tokens[number])]
        else:
            assert world.tokens[number] == expected
            stopped = expected[-1] in life.stop
            assert end is (Finish.STOP if stopped else Finish.LENGTH)


@given(
    limits(),
    st.integers(0, 6),
    st.lists(lives(), min_size=1, max_size=8),
    st.sets(st.integers(1, 60), max_size=3).map(frozenset),
)
def test_failed_steps_lose_nothing(
    limits: Limits, spare: int, everyone: list[Life], failing: frozenset[int]
) -> None:
    world = World(limits, pool_for(limits, spare), failing)
    world.run(everyone)
    assert world.allocator.free == world.allocator.total
    twice = any(step + 1 in failing for step in failing)
    for number, tokens in world.tokens.items():
        (end,) = world.ends[number]
        assert tokens == alone(everyone[number])[: len(tokens)]
        assert end is not Finish.ERROR or twice


@given(limits(), st.lists(lives(), min_size=2, max_size=10))
def test_rollback_restores_the_reservations(limits: Limits, everyone: list[Life]) -> None:
    world = World(limits, pool_for(limits, 8))
    for number, life in enumerate(everyone):
        world._submit(number, life, 0)
    while not world.engine.idle:
        before = world.holdings()
        plan = world.scheduler.plan(0.0)
        world.scheduler.rollback(plan)
        world.allocator.audit()
        for owner, count in world.holdings().items():
            assert count == before[owner], "only a preemption changes them"
        again = world.scheduler.plan(0.0)
        assert {row.sequence_id: list(row.tokens) for row in again.batch.rows} == {
            row.sequence_id: list(row.tokens) for row in plan.batch.rows
        }
        world.scheduler.rollback(again)
        world._step(0)
