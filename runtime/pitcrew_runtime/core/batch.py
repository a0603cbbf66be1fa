"""What one step computes: the message from the scheduler to an executor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pitcrew_runtime.core.adapters import NO_ADAPTER, Adapter
from pitcrew_runtime.core.request import Sampling


class Row(NamedTuple):
    """New tokens of one sequence.

    The tokens stand at positions `start`, `start + 1`, …; the `start` tokens before them are in
    `pages`, which have room for the new ones too. `pages` is a live view that stays as it is until
    the step is committed or rolled back.
    """

    sequence_id: int
    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    sampling: Sampling | None
    """None: a chunk in the middle of a prompt, whose next token is already known."""
    slot: int = NO_ADAPTER
    """Where the executor has the sequence's adapter."""
    history: Sequence[int] = ()
    """All tokens up to `end`, for whoever picks the next by what has been said: a live view."""
    prompt_length: int = 0
    """How many of these are the prompt."""

    @property
    def end(self) -> int:
        """The position after the last new token: where a sampled token will stand."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The rows of one step, in no order that matters."""

    rows: tuple[Row, ...]
    page_size: int
    adapters: Mapping[int, Adapter] = field(default_factory=dict)
    """What has to lie in the slots of the rows when they are computed."""

    @property
    def tokens(self) -> int:
        """New tokens in all rows."""
        return sum(len(row.tokens) for row in self.rows)
