"""Guesses are checked against the distribution that they must not change."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.core.executor import Chosen, Executor, Work
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import GREEDY, Request, Sampling
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.execution.choosing import choose
from pitcrew_runtime.speculation.draft import DraftProposer
from pitcrew_runtime.speculation.executor import SpeculativeExecutor

WORDS = 4
TOKENS = 3
SEQUENCES = 2500
BOUND = 132.0
"""Of chi-squared with 63 degrees of freedom; an honest sample is above it once in a million times."""
TRUTH, GUESS = np.random.default_rng(5).normal(size=(2, WORDS, WORDS)).astype(np.float32)


class Markov:
    """A network whose logits follow from the last token alone."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = table
        self.pages = 1024
        self.work = Work()

    def execute(self, batch: StepBatch) -> Sequence[Chosen]:
        wanted = 1 + max(row.drafts for row in batch.rows)
        logits = np.zeros((len(batch.rows), wanted, WORDS), np.float32)
        for index, row in enumerate(batch.rows):
            ends = row.tokens[-1 - row.drafts :]
            logits[index, : len(ends)] = self._table[ends]
        return choose(batch.rows, logits)


def said(executor: Executor, temperature: float) -> list[tuple[int, ...]]:
    """What sequences of all seeds say after token 0."""
    limits = Limits(64, 512, SEQUENCES, 16, page_size=8, lookahead=2)
    engine = Engine(Scheduler(limits, PageAllocator(executor.pages)), executor)
    tokens: dict[int, list[int]] = {}
    for seed in range(SEQUENCES):
        tokens[seed] = []
        engine.submit(Request(seed, (0,), TOKENS, 0.0, Sampling(temperature, seed=seed)))
    while not engine.idle:
        for update in engine.step(0.0).updates:
            if update.sampled is not None:
                tokens[update.request_id].append(update.sampled.token)
    return [tuple(one) for one in tokens.values()]


def chi_squared(found: list[tuple[int, ...]], temperature: float) -> float:
    """Of the texts that were said, against those that the true table makes."""
    odds = np.exp(TRUTH.astype(np.float64) / temperature)
    odds /= odds.sum(axis=1, keepdims=True)
    total = 0.0
    for text in product(range(WORDS), repeat=TOKENS):
        expected = len(found) * np.prod(
            [odds[a, b] for a, b in zip((0, *text), text, strict=False)]
        )
        total += (found.count(text) - expected) ** 2 / expected
    return total


def test_sampled_texts_have_the_same_distribution() -> None:
    executor = SpeculativeExecutor(Markov(TRUTH), DraftProposer(Markov(GUESS)))
    found = said(executor, 1.0)
    assert 0.2 < executor.work.accepted / executor.work.proposed < 0.9, "guesses of both kinds"
    assert chi_squared(found, 1.0) < BOUND
    assert chi_squared(said(Markov(GUESS), 1.0), 1.0) > 3 * BOUND, "the test can tell"
    assert found == said(Markov(TRUTH), 1.0), "and a seed repeats its text without guesses too"


def row(*tokens: int, drafts: int, sampling: Sampling | None = GREEDY) -> Row:
    known = tokens[: len(tokens) - drafts]
    return Row(1, list(tokens), 0, [0], sampling, list(known), len(known), drafts=drafts)


@pytest.mark.parametrize(
    ("guess", "tokens"),
    [((), [1]), ((1, 2), [1, 2, 3]), ((1, 3), [1, 2]), ((2, 2), [1]), ((1,), [1, 2])],
)
def test_what_follows_a_wrong_guess_is_dropped(guess: tuple[int, ...], tokens: list[int]) -> None:
    following = np.roll(np.eye(WORDS, dtype=np.float32), 1, axis=1)
    logits = following[[[0, *guess, *[0] * (2 - len(guess))]]]
    (chosen,) = choose([row(0, *guess, drafts=len(guess))], logits)
    assert [one.token for one in chosen] == tokens


def test_rows_that_want_nothing_are_given_nothing() -> None:
    logits = np.zeros((2, 1, WORDS), np.float32)
    none, one = choose([row(0, 1, drafts=0, sampling=None), row(0, drafts=0)], logits)
    assert (list(none), len(one)) == ([], 1)


def test_penalties_see_the_guesses_before() -> None:
    forbidding = Sampling(presence_penalty=9.0)
    logits = np.tile(np.array([0, 5, 4, 0], np.float32), (1, 3, 1))
    (chosen,) = choose([row(0, 1, 2, drafts=2, sampling=forbidding)], logits)
    assert [one.token for one in chosen] == [1, 2, 0]
