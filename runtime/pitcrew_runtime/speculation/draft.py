"""Guesses by a smaller engine that follows the text token by token.

The draft engine has a pool of its own with as many pages, of as many tokens, as the one that it
drafts for, and uses the same page numbers: one page table serves both, so prefixes that are found,
forks and preemptions need no second bookkeeping. Every row goes through the draft engine too, with
or without a guess to make, or its pool would have holes.

It picks its guesses by each row's own sampling and random numbers, so that both engines choose alike
where they think alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitcrew_runtime.core.adapters import NO_ADAPTER
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen, Executor, Work
from pitcrew_runtime.speculation.executor import Guess


@dataclass(slots=True)
class _Course:
    """One row's guess in the making."""

    row: Row
    """What the draft engine computes next."""
    wanted: int
    guess: list[int]

    def advance(self, chosen: Chosen) -> None:
        """Take a token, and go on from it while more are wanted."""
        self.guess.append(chosen[0].token)
        end = self.row.end
        self.row = replace(
            self.row, tokens=self.guess[-1:], start=end, history=[*self.row.history, self.guess[-1]]
        )


class DraftProposer:
    """Proposes what `draft` would say."""

    def __init__(self, draft: Executor) -> None:
        self._draft = draft
        self._behind: frozenset[int] = frozenset()
        """Sequences of the last batch whose last guess was right: it was never fed to the draft
        engine, so the token before their newest one is still to be computed there."""

    @property
    def work(self) -> Work:
        """The draft engine's."""
        return self._draft.work

    def close(self) -> None:
        """See `Proposer`."""
        self._draft.close()

    def propose(self, batch: StepBatch) -> list[Guess]:
        """See `Proposer`."""
        rows = [self._followed(row) for row in batch.rows]
        results = self._draft.execute(replace(batch, rows=rows, adapters={}))
        courses = []
        for row, own, chosen in zip(batch.rows, rows, results, strict=True):
            course = _Course(own, row.lookahead, [])
            if row.lookahead > 0:
                course.advance(chosen)
            courses.append(course)
        while going := [one for one in courses if len(one.guess) < one.wanted]:
            step = StepBatch([one.row for one in going], batch.page_size)
            for course, chosen in zip(going, self._draft.execute(step), strict=True):
                course.advance(chosen)
        return [course.guess for course in courses]

    def settle(
        self, rows: Sequence[Row], guesses: Sequence[Guess], results: Sequence[Chosen]
    ) -> None:
        """See `Proposer`."""
        self._behind = frozenset(
            row.sequence_id
            for row, guess, chosen in zip(rows, guesses, results, strict=True)
            if guess and len(chosen) > len(guess)
        )

    def _followed(self, row: Row) -> Row:
        """The row as the draft engine computes it: without adapter, and with what it lacks."""
        sampling = None
        if row.lookahead > 0 and row.sampling is not None:
            sampling = replace(row.sampling, logprobs=None)
        back = int(row.sequence_id in self._behind and row.start > 0)
        tokens = [*row.history[row.start - back : row.start], *row.tokens]
        return replace(
            row,
            tokens=tokens,
            start=row.start - back,
            sampling=sampling,
            slot=NO_ADAPTER,
            lookahead=0,
            scored=None,
        )
