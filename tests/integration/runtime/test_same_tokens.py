"""Three hundred requests on a real network, in every kind of company, each as if it were alone.

What is random is drawn by hypothesis: a failure is shrunk to the few requests, and the plainest
company, that still show it. Each build has examples of its own, the same each time, for the
machine's arithmetic decides near ties.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import pytest
from hypothesis import HealthCheck, event, given, note, seed, settings
from hypothesis import strategies as st

from pitcrew_runtime.assembly import Tuning, limits_for, load_executor
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Executor
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import GREEDY, Finish, Request, Sampling
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.speculation.draft import DraftProposer
from pitcrew_runtime.speculation.executor import Proposer, SpeculativeExecutor
from pitcrew_runtime.speculation.ngram import NgramProposer
from tests.integration.runtime.conftest import Engines

LONGEST = 40
POOL = 400
"""Tokens that the largest pool has room for."""
EXAMPLES = 7
VOCABULARY = 256
BEGINNINGS = tuple(
    tuple((seed * 31 + place * 7) % VOCABULARY for place in range(20)) for seed in range(3)
)
SAMPLINGS = (GREEDY, GREEDY, Sampling(temperature=0.9, top_p=0.95, seed=7))

Guesser = Literal["nobody", "ngram", "itself", "another"]


@dataclass(frozen=True)
class Build:
    """How an engine is built."""

    page_size: int
    split: tuple[str, ...] = ()
    """Options of a build for several ranks."""
    guesser: Guesser = "ngram"
    """Of its companies where they guess at all."""
    checkpoint: str = "llama3"
    short_length: int = 0
    """Tokens up to which it computes texts otherwise than longer ones."""

    @property
    def ranks(self) -> int:
        """Processes that compute it."""
        return 2 if self.split else 1


BUILDS = {
    "pages of 4": Build(4, guesser="itself"),
    "pages of 7": Build(7, guesser="another"),
    "pages of 16": Build(16),
    "pages of 4, two ranks": Build(4, ("--tensor-parallel", "2"), "itself"),
    "pages of 7, two stages": Build(7, ("--pipeline-parallel", "2")),
    "short and long texts": Build(4, (), "itself", "phi3-long", 32),
    "short and long texts, two ranks": Build(
        7, ("--tensor-parallel", "2"), "itself", "phi3-long", 32
    ),
}


@dataclass(frozen=True)
class Company:
    """How one crowd of requests is served."""

    limits: Limits
    pages: int
    guesser: Guesser


@dataclass(frozen=True)
class Coming:
    """Choices for a prompt, the step that they come before, and when the first is cancelled."""

    prompt: tuple[int, ...]
    counts: tuple[int, ...]
    """Tokens to generate, of each choice; those after the first are forks of it."""
    sampling: Sampling
    arrives: int
    cancelled: tuple[Literal["steps", "tokens"], int] | None
    """After so many steps, or tokens of its own."""
    priority: int

    def has_enough(self, step: int, tokens: int) -> bool:
        """Whether the first choice, which has so many tokens, is cancelled before this step."""
        if self.cancelled is None or step < self.arrives:
            return False
        kind, count = self.cancelled
        return (step - self.arrives if kind == "steps" else tokens) >= count

    def requests(self, first: int) -> Iterator[Request]:
        """Numbered from `first` on."""
        for choice, count in enumerate(self.counts):
            yield Request(
                first + choice,
                self.prompt,
                min(count, LONGEST - len(self.prompt)),
                float(self.arrives),
                self.sampling,
                priority=self.priority,
                fork_of=first if choice else None,
            )


@dataclass
class Tally:
    """What happened in all examples of one build."""

    requests: int = 0
    whole: int = 0
    cut_short: int = 0
    """Cancelled after their first token."""
    preempted: int = 0
    reused: int = 0
    guessed: int = 0
    guessed_right: int = 0
    outgrown: int = 0


@st.composite
def companies(draw: st.DrawFn, build: Build) -> Company:
    batch = draw(st.integers(1, 6))
    limits = Limits(
        max_running=batch,
        max_step_tokens=batch + draw(st.integers(1, 40)),
        max_waiting=100,
        max_sequence_length=LONGEST,
        page_size=build.page_size,
        policy=draw(st.sampled_from(Policy)),
        prefix_cache=draw(st.sampled_from((True, True, False))),
        short_length=build.short_length,
        lookahead=draw(st.integers(1, 4)),
    )
    spare = draw(st.sampled_from((0, 1, 2, 4, 12)))
    pages = min(limits.pages_for(LONGEST) + spare, POOL // build.page_size)
    guesser: Guesser = draw(st.sampled_from(("nobody", build.guesser, build.guesser)))
    if guesser == "nobody":
        limits = replace(limits, lookahead=0)
    return Company(limits, pages, guesser)


@st.composite
def comings(draw: st.DrawFn) -> Coming:
    beginning = draw(st.sampled_from(BEGINNINGS))[: draw(st.sampled_from((0, 9, 20)))]
    own = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=10))
    return Coming(
        (*beginning, *own),
        tuple(draw(st.lists(st.integers(1, 28), min_size=1, max_size=3))),
        draw(st.sampled_from(SAMPLINGS)),
        draw(st.integers(0, 10)),
        draw(
            st.none()
            | st.tuples(st.just("steps"), st.integers(0, 15))
            | st.tuples(st.just("tokens"), st.integers(1, 9))
        ),
        draw(st.sampled_from((0, 0, 1))),
    )


@dataclass
class House:
    """A network and those who guess for it, in memory once for all examples."""

    build: Build
    executors: dict[str, Executor]
    known: dict[tuple[tuple[int, ...], Sampling], list[int]] = field(default_factory=dict)

    def engine(self, company: Company) -> Engine:
        """New books over the same pools, which hold the same rubbish each time."""
        for executor in self.executors.values():
            executor.execute(self._rubbish)
        executor = self.executors["main"]
        if company.guesser != "nobody":
            executor = SpeculativeExecutor(executor, self._proposer(company.guesser))
        return Engine(Scheduler(company.limits, PageAllocator(company.pages)), executor)

    def alone(self, request: Request) -> list[int]:
        """What a request is given with nobody beside it, before it or guessing for it."""
        key = (request.prompt, request.sampling)
        if key not in self.known:
            limits = Limits(
                1, LONGEST + 1, 1, LONGEST, self.build.page_size,
                prefix_cache=False, short_length=self.build.short_length,
            )  # fmt: skip
            pages = PageAllocator(limits.pages_for(LONGEST))
            engine = Engine(Scheduler(limits, pages), self.executors["alone"])
            engine.submit(replace(request, max_tokens=LONGEST - len(request.prompt), fork_of=None))
            found: list[int] = []
            while not engine.idle:
                found += [one.sampled.token for one in engine.step(0.0).updates if one.sampled]
            self.known[key] = found
        return self.known[key][: request.max_tokens]

    @cached_property
    def _rubbish(self) -> StepBatch:
        """A token over and over, in every page."""
        size = self.build.page_size
        pages = range(self.executors["main"].pages)
        rows = [Row(page, [9] * size, 0, [page], None) for page in pages]
        return StepBatch(rows, size)

    def _proposer(self, guesser: Guesser) -> Proposer:
        if guesser == "ngram":
            return NgramProposer(shortest=1)
        return DraftProposer(self.executors[guesser])


@contextmanager
def house(build: Build, engines: Engines) -> Iterator[House]:
    page = ("--kv-page-size", str(build.page_size))
    plain = engines(build.checkpoint, *page)
    places = {
        "main": (engines(build.checkpoint, *page, *build.split), build.ranks),
        "alone": (plain, 1),
    }
    if build.guesser == "itself":
        places["itself"] = (plain, 1)
    if build.guesser == "another":
        places["another"] = (engines("llama-tied", *page), 1)
    executors = {}
    for name, (path, ranks) in places.items():
        directory = open_engine(path, ranks)
        memory = POOL * directory.manifest.kv_bytes_per_token
        tuning = Tuning(max_batch_size=8, threads=1, kv_memory=memory)
        executors[name] = load_executor(directory, limits_for(directory.manifest, tuning), tuning)
    try:
        yield House(build, executors)
    finally:
        for executor in executors.values():
            executor.close()


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_tokens_are_those_of_each_alone(build: Build, engines: Engines) -> None:
    tally = Tally()
    with house(build, engines) as home:

        @seed(list(BUILDS.values()).index(build))
        @settings(
            max_examples=EXAMPLES,
            derandomize=False,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(companies(build), st.lists(comings(), min_size=4, max_size=10))
        def each_as_if_alone(company: Company, crowd: list[Coming]) -> None:
            note(f"{company}\n{crowd}")
            engine = home.engine(company)
            before = replace(engine.gauges().work)
            requests, tokens, ends = live(engine, crowd)
            for request in requests:
                expected, found = home.alone(request), tokens[request.id]
                whole = ends[request.id] is not Finish.CANCELLED
                assert found == (expected if whole else expected[: len(found)])
                tally.whole += whole
                tally.cut_short += not whole and bool(found)
            gauges = engine.gauges()
            assert gauges.pages_used == 0
            tally.requests += len(requests)
            tally.preempted += gauges.counts.preemptions
            tally.reused += gauges.counts.reused_tokens
            tally.outgrown += gauges.counts.outgrown
            tally.guessed += gauges.work.proposed - before.proposed
            tally.guessed_right += gauges.work.accepted - before.accepted
            event(company.guesser)

        each_as_if_alone()
    assert tally.requests * len(BUILDS) >= 300, tally
    assert min(tally.whole, tally.cut_short, tally.preempted, tally.reused) > 0, tally
    assert tally.guessed > 0, tally
    assert (tally.outgrown > 0) == (build.short_length > 0), tally
    assert tally.guessed_right > 0 or build.guesser != "itself", tally


def live(
    engine: Engine, crowd: list[Coming]
) -> tuple[list[Request], dict[int, list[int]], dict[int, Finish]]:
    """All requests, with their tokens and ends."""
    requests: list[Request] = []
    tokens: dict[int, list[int]] = {}
    ends: dict[int, Finish] = {}
    step = 0
    while step <= 10 or not engine.idle:
        for place, coming in enumerate(crowd):
            if coming.arrives == step:
                for request in coming.requests(10 * place):
                    requests.append(request)
                    tokens[request.id] = []
                    engine.submit(request)
            if coming.has_enough(step, len(tokens.get(10 * place, ()))):
                engine.cancel(10 * place)
        for update in engine.step(float(step)).updates:
            if update.sampled is not None:
                tokens[update.request_id].append(update.sampled.token)
            if update.finish is not None:
                assert update.request_id not in ends
                ends[update.request_id] = update.finish
        step += 1
    assert ends.keys() == tokens.keys()
    return requests, tokens, ends
