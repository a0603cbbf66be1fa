from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import GREEDY, Request, Sampled, Sampling
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.speculation.draft import DraftProposer
from pitcrew_runtime.speculation.executor import Proposer, SpeculativeExecutor
from pitcrew_runtime.speculation.ngram import NgramProposer
from pitcrew_runtime.testing import EchoExecutor, continuation, score_of

LIMITS = Limits(4, 32, 8, 64, page_size=4, lookahead=3)


def looking_ahead(history: Sequence[int], count: int) -> StepBatch:
    row = Row(1, history[-1:], len(history) - 1, (), GREEDY, history, lookahead=count)
    return StepBatch([row], 4)


@pytest.mark.parametrize(
    ("history", "guess"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),
        ([5, 1, 2, 3, 1, 2, 4, 5, 1, 2], [3, 1, 2]),
        ([7, 7, 7], [7]),
        ([1, 2, 3], []),
        ([1], []),
        ([1 << 8, 1 << 16, 3, 0, 1, 0, 1 << 8], []),
    ],
    ids=["once", "the latest", "the longest", "overlapping", "never", "short", "halves of tokens"],
)
def test_ngrams_propose_what_followed_last_time(history: list[int], guess: list[int]) -> None:
    (found,) = NgramProposer().propose(looking_ahead(history, 3))
    assert list(found) == guess


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.lists(st.integers(0, 3), max_size=20),
    st.integers(1, 5),
)
def test_ngrams_agree_with_a_plain_search(start: list[int], more: list[int], count: int) -> None:
    proposer, history = NgramProposer(longest=3, shortest=1), start
    for token in [*more, None]:
        (found,) = proposer.propose(looking_ahead(history, count))
        assert list(found) == searched(history, count)
        if token is not None:
            history.append(token)


def searched(history: list[int], count: int) -> list[int]:
    for length in (3, 2, 1):
        for begin in range(len(history) - length - 1, -1, -1):
            if history[begin : begin + length] == history[-length:]:
                return history[begin + length : begin + length + count]
    return []


class Scatterbrain(EchoExecutor):
    """A draft engine that is wrong at every third position."""

    def _answer(self, row: Row) -> Chosen:
        (one, *_) = super()._answer(row)
        return (one._replace(token=(one.token + (row.end % 3 == 0)) % 256),)


def proposers() -> dict[str, Proposer]:
    return {
        "ngram": NgramProposer(shortest=1),
        "perfect draft": DraftProposer(EchoExecutor(64, 4)),
        "imperfect draft": DraftProposer(Scatterbrain(64, 4)),
    }


@pytest.mark.parametrize("short_length", [0, 11])
@pytest.mark.parametrize("name", proposers())
def test_guesses_change_no_token(name: str, short_length: int) -> None:
    executor = SpeculativeExecutor(EchoExecutor(64, 4), proposers()[name])
    limits = replace(LIMITS, short_length=short_length)
    engine = Engine(Scheduler(limits, PageAllocator(64)), executor)
    scored = Sampling(prompt_logprobs=0)
    requests = [
        Request(number, (number, 3, 1), 20 + number, 0.0, scored if number % 2 else GREEDY)
        for number in range(6)
    ]
    for one in requests:
        engine.submit(one)
    tokens: dict[int, list[int]] = {one.id: [] for one in requests}
    scores: dict[int, list[Sampled]] = {one.id: [] for one in requests}
    steps = 0
    while not engine.idle:
        steps += 1
        for update in engine.step(0.0).updates:
            scores[update.request_id] += update.scores
            if update.sampled is not None:
                tokens[update.request_id].append(update.sampled.token)
    for one in requests:
        said = [score_of(one.prompt[:place], one.prompt[place]) for place in (1, 2)]
        assert scores[one.id] == (said if one.id % 2 else [])
    assert tokens == {
        one.id: continuation(one.prompt, one.max_tokens, short_length=short_length)
        for one in requests
    }
    assert engine.gauges().counts.outgrown == (len(requests) if short_length else 0)
    work = executor.work
    assert work.accepted <= work.proposed
    if name == "perfect draft":
        assert 0 < work.accepted == work.proposed
        assert steps < 30
    if name == "imperfect draft":
        assert 0 < work.accepted < work.proposed
    assert engine.gauges().pages_used == 0


class Fainting(EchoExecutor):
    """A draft engine that cannot compute for a while."""

    def __init__(self) -> None:
        super().__init__(64, 4)
        self.tried = 0

    def execute(self, batch: StepBatch) -> list[Chosen]:
        self.tried += 1
        if 5 < self.tried < 12:
            raise RuntimeError("no device")
        return super().execute(batch)


def test_a_draft_engine_that_fails_costs_guesses_only() -> None:
    executor = SpeculativeExecutor(EchoExecutor(64, 4), DraftProposer(draft := Fainting()))
    engine = Engine(Scheduler(LIMITS, PageAllocator(64)), executor)
    engine.submit(Request(1, (7, 3), 50, 0.0))
    said: list[int] = []
    while not engine.idle:
        said += [one.sampled.token for one in engine.step(0.0).updates if one.sampled]
    assert said == continuation((7, 3), 50)
    assert draft.tried > 12
    assert executor.work.accepted > 0


def test_a_draft_engine_sees_every_token_once_or_knows_what_it_lacks() -> None:
    draft = EchoExecutor(64, 4)
    engine = Engine(
        Scheduler(LIMITS, PageAllocator(64)),
        SpeculativeExecutor(EchoExecutor(64, 4), DraftProposer(draft)),
    )
    engine.submit(Request(1, (5, 6), 40, 0.0))
    said: list[int] = [5, 6]
    while len(said) < 36:
        said += [one.sampled.token for one in engine.step(0.0).updates if one.sampled]
    (plan,) = [engine._scheduler.plan(0.0)]
    pages = plan.batch.rows[0].pages
    kept = [draft._pool[pages[place // 4]][place % 4] for place in range(len(said) - 2)]
    assert kept == said[: len(said) - 2]


def test_nobody_guesses_beyond_the_last_token() -> None:
    seen: list[int] = []

    class Watching(NgramProposer):
        def propose(self, batch: StepBatch) -> list[Sequence[int]]:
            seen.extend(row.lookahead for row in batch.rows if row.start >= 4)
            return super().propose(batch)

    executor = SpeculativeExecutor(EchoExecutor(2, 4), Watching())
    engine = Engine(Scheduler(LIMITS, PageAllocator(2)), executor)
    engine.submit(Request(1, (1, 2, 3, 4), 4, 0.0))
    while not engine.idle:
        engine.step(0.0)
    assert seen == [2, 1, 0]


@pytest.mark.parametrize("budget", [5, 6, 9])
def test_prompts_come_before_guesses(budget: int) -> None:
    limits = Limits(4, budget, 8, 64, page_size=4, lookahead=3)
    heart = Scheduler(limits, PageAllocator(64))
    engine = Engine(heart, SpeculativeExecutor(EchoExecutor(64, 4), NgramProposer()))
    engine.submit(Request(1, (1, 2), 30, 0.0))
    engine.step(0.0)
    engine.submit(Request(2, tuple(range(6)), 30, 0.0))
    (first, second) = heart.plan(0.0).batch.rows
    assert len(second.tokens) == min(6, budget - 1)
    assert first.lookahead == min(3, budget - 1 - len(second.tokens))
