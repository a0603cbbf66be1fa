"""What one step computes: the message from the scheduler to an executor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pitcrew_runtime.core.adapters import NO_ADAPTER, Adapter
from pitcrew_runtime.core.request import Sampling


@dataclass(slots=True, eq=False)
class Row:
    """New tokens of one sequence.

    The tokens stand at positions `start`, `start + 1`, …; the `start` tokens before them are in
    `pages`, which have room for the new ones too. A row stays as it is from the plan of a step to
    its commit or rollback; a decoding sequence's is moved on and used again, for making one anew
    for each of hundreds of sequences in every step is what would cost most.
    """

    sequence_id: int
    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    """A live view."""
    sampling: Sampling | None
    """None: a chunk in the middle of a prompt, whose next token is already known."""
    history: Sequence[int] = ()
    """All tokens of the sequence that are known, for whoever picks the next by what has been said: a
    live view."""
    prompt_length: int = 0
    """How many of these are the prompt."""
    slot: int = NO_ADAPTER
    """Where the executor has the sequence's adapter."""
    long: bool = False
    """Of a text that has outgrown short ones, where those are computed otherwise."""
    lookahead: int = 0
    """So many tokens beyond the next one would be welcome; the pages have room for them."""
    drafts: int = 0
    """The last so many of `tokens` are guesses, to be checked and not yet in `history`."""
    scored: int | None = None
    """Log probabilities of the prompt's tokens after the first of these are wanted, each with so many
    alternatives."""

    @property
    def end(self) -> int:
        """The position after the last new token: where a sampled token will stand."""
        return self.start + len(self.tokens)

    @property
    def scores(self) -> int:
        """How many tokens of the prompt are to be scored: those that follow the row's own."""
        if self.scored is None:
            return 0
        return max(0, min(self.end, self.prompt_length - 1) - self.start)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The rows of one step, in no order that matters."""

    rows: Sequence[Row]
    page_size: int
    adapters: Mapping[int, Adapter] = field(default_factory=dict)
    """What has to lie in the slots of the rows when they are computed."""
    copies: Sequence[tuple[int, int]] = ()
    """(from, to): pages to be copied before any row is computed."""

    def of(self, rows: Sequence[Row]) -> "StepBatch":
        """The same step with these of the rows only."""
        pages = {page for row in rows for page in row.pages}
        return replace(self, rows=rows, copies=[copy for copy in self.copies if copy[1] in pages])
