"""The scheduler under random lives: whatever happens, each request's tokens are its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Chosen, Work
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.plan import Plan
from pitcrew_runtime.core.request import GREEDY, Finish, Request, Sampled
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.errors import QueueFull
from pitcrew_runtime.speculation.executor import Guess, SpeculativeExecutor
from pitcrew_runtime.testing import (
    EchoExecutor,
    NamedAdapter,
    continuation,
    marked,
    score_of,
)

MAX_LENGTH = 24
SLOTS = 2
ADAPTERS = ("a", "b", "c")
"""More than there are slots for."""
BEGINNINGS = ((), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (1, 2, 3, 4, 5, 9, 9))
FORKS = 3
"""At most, of one request; ids have room for them."""


@dataclass(frozen=True)
class Life:
    """One request and when it comes and goes, in steps."""

    prompt: tuple[int, ...]
    max_tokens: int
    arrives: int
    cancelled: int | None
    deadline: int | None
    stop: frozenset[int]
    adapter: str = ""
    tenant: str = ""
    priority: int = 0
    forks: tuple[int, ...] = ()
    """Their tokens."""
    scored: bool = False
    """Log probabilities of the prompt are wanted."""

    def request(self, number: int) -> Request:
        """The request of that number; its forks have the numbers after it."""
        fork = number % (FORKS + 1)
        return Request(
            number,
            self.prompt,
            self.forks[fork - 1] if fork else self.max_tokens,
            float(self.arrives),
            replace(GREEDY, prompt_logprobs=0) if self.scored else GREEDY,
            stop_tokens=self.stop,
            adapter=NamedAdapter(self.adapter) if self.adapter else None,
            tenant=self.tenant,
            priority=self.priority,
            deadline=self.deadline,
            fork_of=number - fork if fork else None,
        )


@st.composite
def lives(draw: st.DrawFn) -> Life:
    begin = draw(st.sampled_from(BEGINNINGS))
    length = st.integers(0 if begin else 1, MAX_LENGTH - 1 - len(begin))
    end = draw(length.flatmap(lambda n: st.lists(st.integers(0, 255), min_size=n, max_size=n)))
    tokens = st.integers(0, MAX_LENGTH - len(begin) - len(end))
    return Life(
        (*begin, *end),
        draw(tokens),
        draw(st.integers(0, 12)),
        draw(st.none() | st.integers(0, 30)),
        draw(st.none() | st.integers(0, 30)),
        draw(st.sets(st.integers(0, 255), max_size=20).map(frozenset)),
        draw(st.sampled_from(("", *ADAPTERS))),
        draw(st.sampled_from(("", "another"))),
        draw(st.integers(-1, 1)),
        tuple(draw(st.lists(tokens, max_size=FORKS))),
        draw(st.booleans()),
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
        prefix_cache=draw(st.booleans()),
        short_length=draw(st.sampled_from((0, 0, 1, 9, 16, MAX_LENGTH))),
        lookahead=draw(st.integers(0, 4)),
    )


class Guesser:
    """Guesses right, but for the places where it does not."""

    def __init__(self, short_length: int) -> None:
        self.work = Work()
        self._short_length = short_length

    def propose(self, batch: StepBatch) -> list[Guess]:
        return [self._guess(row) if row.lookahead > 0 else () for row in batch.rows]

    def settle(
        self, rows: Sequence[Row], guesses: Sequence[Guess], results: Sequence[Chosen]
    ) -> None:
        for row, guess, chosen in zip(rows, guesses, results, strict=True):
            assert len(guess) <= max(0, row.lookahead)
            assert len(chosen) - row.scores <= len(guess) + 1

    def _guess(self, row: Row) -> Guess:
        right = continuation(row.history, row.lookahead, short_length=self._short_length)
        return [
            token if (row.end + place) % 3 else (token + 1) % 256
            for place, token in enumerate(right)
        ][: 1 + row.end % 4]


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
        executor = FlakyExecutor(self.pages, self.limits.page_size, self.failing)
        self.engine = Engine(
            self.scheduler, SpeculativeExecutor(executor, Guesser(self.limits.short_length))
        )
        self.requests: dict[int, Request] = {}
        self.tokens: dict[int, list[int]] = {}
        self.scores: dict[int, list[Sampled]] = {}
        self.ends: dict[int, list[Finish]] = {}

    def run(self, everyone: list[Life]) -> None:
        for step in range(3000):
            for place, life in enumerate(everyone):
                first = place * (FORKS + 1)
                if life.arrives == step:
                    for number in range(first, first + 1 + len(life.forks)):
                        self.submit(life.request(number))
                if life.cancelled == step:
                    self.engine.cancel(first)
            if step > 30 and self.engine.idle:
                return
            self.step(step)
        pytest.fail("the engine never became idle")

    def holdings(self) -> dict[int, int]:
        return {owner: len(self.allocator.pages_of(owner)) for owner in self.allocator.owners}

    def submit(self, request: Request) -> None:
        try:
            self.engine.submit(request)
        except QueueFull:
            return
        self.requests[request.id] = request
        self.tokens[request.id], self.ends[request.id] = [], []
        self.scores[request.id] = []

    def step(self, step: int) -> None:
        report = self.engine.step(float(step))
        assert report.rows <= self.limits.max_running
        assert report.tokens <= self.limits.max_step_tokens
        self.allocator.audit()
        self._check_strangers()
        for update in report.updates:
            assert not self.ends[update.request_id], "news after the end"
            self.scores[update.request_id] += update.scores
            assert not (update.scores and self.tokens[update.request_id]), "scores after a token"
            if update.sampled is not None:
                self.tokens[update.request_id].append(update.sampled.token)
            if update.finish is not None:
                self.ends[update.request_id].append(update.finish)
        self._check_waste()

    def _check_waste(self) -> None:
        """After a step, nobody holds a page that its tokens do not at least begin."""
        for owner, held in self.holdings().items():
            known = len(self.requests[owner].prompt) + len(self.tokens[owner])
            assert held <= self.limits.pages_for(known)

    def _check_strangers(self) -> None:
        """Nobody shares a page with another tenant or adapter."""
        parties: dict[int, set[tuple[str, str]]] = {}
        for owner in self.allocator.owners:
            request = self.requests[owner]
            adapter = request.adapter.identity if request.adapter else ""
            for page in self.allocator.pages_of(owner):
                parties.setdefault(page, set()).add((request.tenant, adapter))
        assert all(len(party) == 1 for party in parties.values())


def alone(request: Request, limits: Limits) -> list[int]:
    tokens = []
    adapter = request.adapter.identity if request.adapter else ""
    count, short = request.max_tokens, limits.short_length
    for token in continuation(request.prompt, count, adapter, short):
        tokens.append(token)
        if token in request.stop_tokens:
            break
    return tokens


def scores(request: Request, limits: Limits) -> list[Sampled]:
    """Of all tokens of the prompt but the first, where they are wanted."""
    if request.sampling.prompt_logprobs is None:
        return []
    prompt = request.prompt
    kept = marked(prompt, long=limits.outgrown(len(prompt)))
    return [score_of(kept[:place], prompt[place]) for place in range(1, len(prompt))]


def pool_for(limits: Limits, spare: int) -> int:
    """At least one longest sequence, or the request would be refused at once."""
    return limits.pages_for(MAX_LENGTH) + spare


@given(limits(), st.integers(0, 12), st.lists(lives(), max_size=12))
def test_output_equals_running_alone(limits: Limits, spare: int, everyone: list[Life]) -> None:
    world = World(limits, pool_for(limits, spare))
    world.run(everyone)
    assert world.allocator.free == world.allocator.total
    assert not world.slots.pinned
    for number, request in world.requests.items():
        expected = alone(request, limits)
        (end,) = world.ends[number]
        if end is Finish.CANCELLED:
            assert everyone[number // (FORKS + 1)].cancelled is not None
        elif end is Finish.TIMEOUT:
            assert request.deadline is not None
        else:
            assert world.tokens[number] == expected
            assert world.scores[number] == scores(request, limits)
            stopped = bool(expected) and expected[-1] in request.stop_tokens
            assert end is (Finish.STOP if stopped else Finish.LENGTH)
        assert world.tokens[number] == expected[: len(world.tokens[number])]
        assert world.scores[number] == scores(request, limits)[: len(world.scores[number])]


@given(
    limits(),
    st.integers(0, 6),
    st.lists(lives(), min_size=1, max_size=6),
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
        assert tokens == alone(world.requests[number], limits)[: len(tokens)]
        told = world.scores[number]
        assert told == scores(world.requests[number], limits)[: len(told)]
        assert end is not Finish.ERROR or twice


@given(limits(), st.lists(lives(), min_size=2, max_size=8))
def test_rollback_restores_the_reservations(limits: Limits, everyone: list[Life]) -> None:
    world = World(limits, pool_for(limits, 8))
    for place, life in enumerate(everyone):
        for number in range(1 + len(life.forks)):
            world.submit(replace(life.request(place * (FORKS + 1) + number), deadline=None))
    while not world.engine.idle:
        before = world.holdings()
        plan = world.scheduler.plan(0.0)
        first = told(plan)
        world.scheduler.rollback(plan)
        world.allocator.audit()
        for owner, count in world.holdings().items():
            assert count == before[owner], "only a preemption changes them"
        again = world.scheduler.plan(0.0)
        assert told(again) == first
        world.scheduler.rollback(again)
        world.step(0)


def told(plan: Plan) -> dict[int, tuple[list[int], int]]:
    """What a plan would compute, by sequence."""
    return {row.sequence_id: (list(row.tokens), row.lookahead) for row in plan.batch.rows}
