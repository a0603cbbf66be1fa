"""Guesses by looking up the sequence itself: what followed the last time that its end was said.

Prompt lookup (Saxena 2023; assisted generation by n-grams): the last few tokens are searched for in
what came before, longer endings first, and what followed the latest occurrence is proposed. It costs
a search of bytes and no network; it pays where texts quote or repeat themselves.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen, Work
from pitcrew_runtime.speculation.executor import Guess

LONGEST = 4
SHORTEST = 2
MOST = 32
"""Of `longest`: each length is a search of its own, and endings that long hardly ever come again."""
WINDOW = 1 << 16
"""Tokens that are searched, counted from the end: half a millisecond where nothing is found."""
_WIDTH = array("I").itemsize


@dataclass(slots=True)
class _Text:
    """A sequence's tokens as bytes, that grow with it."""

    history: Sequence[int]
    data: bytearray = field(default_factory=bytearray)

    def catch_up(self) -> None:
        """Take in what was added to the history."""
        known = len(self.data) // _WIDTH
        self.data += array("I", self.history[known:]).tobytes()


class NgramProposer:
    """Proposes from the texts of the sequences in the batch."""

    def __init__(self, longest: int = LONGEST, shortest: int = SHORTEST) -> None:
        if not 1 <= shortest <= longest <= MOST:
            raise ValueError(
                f"n-grams of {shortest} to {longest} tokens; 1 ≤ shortest ≤ longest ≤ {MOST}"
            )
        self.work = Work()
        self._lengths = range(longest, shortest - 1, -1)
        self._texts: dict[int, _Text] = {}

    def close(self) -> None:
        """See `Proposer`: there is nothing to let go of."""

    def propose(self, batch: StepBatch) -> list[Guess]:
        """See `Proposer`."""
        self._texts = {row.sequence_id: self._text(row) for row in batch.rows if row.lookahead > 0}
        return [self._guess(row) if row.lookahead > 0 else () for row in batch.rows]

    def settle(
        self, rows: Sequence[Row], guesses: Sequence[Guess], results: Sequence[Chosen]
    ) -> None:
        """Nothing is learned from results that the histories do not say."""

    def _text(self, row: Row) -> _Text:
        text = self._texts.get(row.sequence_id)
        if text is None or text.history is not row.history:
            text = _Text(row.history)
        text.catch_up()
        return text

    def _guess(self, row: Row) -> Guess:
        data = self._texts[row.sequence_id].data
        for length in self._lengths:
            found = _last_occurrence(data, length * _WIDTH)
            if found is not None:
                begin = found // _WIDTH + length
                return row.history[begin : begin + row.lookahead]
        return ()


def _last_occurrence(data: bytearray, size: int) -> int | None:
    """Where the last `size` bytes stand for the last time before the end, as whole tokens."""
    ending = bytes(data[-size:])
    begin = max(0, len(data) - WINDOW * _WIDTH)
    end = len(data) - 1
    while (found := data.rfind(ending, begin, end)) >= 0:
        if found % _WIDTH == 0:
            return found
        end = found + size - 1
    return None
