"""An executor that guesses: asks a proposer, lets another executor check, and counts.

The scheduler only knows that a row may be given several tokens (`Row.lookahead`). Which are right is
decided where the logits are; no guess, however wrong, changes a token. Knows no tensors.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen, Executor, ExecutorBroken, Work

logger = logging.getLogger(__name__)

Guess = Sequence[int]
"""Tokens that may follow a row, in order; at most `Row.lookahead`."""


class Proposer(Protocol):
    """Guesses the tokens that follow rows."""

    def propose(self, batch: StepBatch) -> Sequence[Guess]:
        """A guess for each row, which may be empty. It sees every batch, guesses asked for or not."""
        ...

    @property
    def work(self) -> Work:
        """What its own network has done, where it has one."""
        ...

    def close(self) -> None:
        """Let go of what it guesses with."""
        ...

    def settle(
        self, rows: Sequence[Row], guesses: Sequence[Guess], results: Sequence[Chosen]
    ) -> None:
        """Told after each batch that was computed: what came of the guesses."""
        ...


class SpeculativeExecutor:
    """Checks a proposer's guesses with `executor`."""

    def __init__(self, executor: Executor, proposer: Proposer) -> None:
        self._executor = executor
        self._proposer = proposer
        self._proposed = self._accepted = 0

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return self._executor.pages

    @property
    def work(self) -> Work:
        """Of both, since the start."""
        checking, guessing = self._executor.work, self._proposer.work
        return Work(
            checking.seconds + guessing.seconds,
            checking.runs + guessing.runs,
            checking.positions + guessing.positions,
            checking.padding + guessing.padding,
            self._proposed,
            self._accepted,
            checking.fault or guessing.fault,
        )

    def close(self) -> None:
        """See `Executor`."""
        self._executor.close()
        self._proposer.close()

    def execute(self, batch: StepBatch) -> Sequence[Chosen]:
        """See `Executor`."""
        guesses = self._guesses(batch)
        rows = [_guessing(row, guess) for row, guess in zip(batch.rows, guesses, strict=True)]
        results = self._executor.execute(replace(batch, rows=rows))
        self._proposer.settle(batch.rows, guesses, results)
        for guess, chosen in zip(guesses, results, strict=True):
            self._proposed += len(guess)
            self._accepted += max(0, len(chosen) - 1) if guess else 0
        return results

    def _guesses(self, batch: StepBatch) -> Sequence[Guess]:
        """None where the proposer failed: who cannot guess must not fail what can be computed."""
        try:
            return self._proposer.propose(batch)
        except ExecutorBroken:
            raise
        except Exception:
            logger.exception("No guesses for a batch of %d rows", len(batch.rows))
            return [()] * len(batch.rows)


def _guessing(row: Row, guess: Guess) -> Row:
    """The row with the guess behind its own tokens."""
    if not guess:
        return row
    return replace(row, tokens=[*row.tokens, *guess], lookahead=0, drafts=len(guess))
