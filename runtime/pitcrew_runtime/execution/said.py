"""How often each token stands in a text, counted as the text grows.

Penalties ask for it before every token. Counting the whole text each time would take as long as the
square of its length. What is kept follows from the text alone, so a retry, a preemption or a wrong
guess cannot spoil it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.batch import Row

Integers = NDArray[np.int64]
_ROOM = 64


class Tally:
    """Tokens, each once, and how often each was there."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._tokens: Integers = np.zeros(_ROOM, np.int64)
        self._counts: Integers = np.zeros(_ROOM, np.int64)

    @property
    def tokens(self) -> Integers:
        """In the order of their first appearance: a view."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> Integers:
        """Beside `tokens`: a view."""
        return self._counts[: len(self._places)]

    def add(self, tokens: Iterable[int]) -> None:
        """Count these too."""
        for token, count in Counter(tokens).items():
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[place] = token
            self._counts[place] += count

    def copy(self) -> "Tally":
        """One that counts on by itself."""
        other = Tally()
        other._places = self._places.copy()
        other._tokens, other._counts = self._tokens.copy(), self._counts.copy()
        return other


class Said:
    """The tallies of one text."""

    def __init__(self, history: Sequence[int] = (), prompt_length: int = 0) -> None:
        """`history` is the prompt, of so many tokens, and what was generated after it."""
        self.history = history
        self.everything, self.generated = Tally(), Tally()
        self.everything.add(history[:prompt_length])
        self._known = prompt_length
        self.catch_up()

    def catch_up(self) -> None:
        """Count what was added to the history."""
        self._generate(self.history[self._known :])

    def beyond(self, tokens: Sequence[int]) -> "Said":
        """The tallies that there would be after these tokens more."""
        other = Said()
        other.everything, other.generated = self.everything.copy(), self.generated.copy()
        other._generate(tokens)
        return other

    def _generate(self, tokens: Sequence[int]) -> None:
        self.everything.add(tokens)
        self.generated.add(tokens)
        self._known += len(tokens)


class Sayings:
    """What has been said in the texts of the last step."""

    def __init__(self) -> None:
        self._said: dict[int, Said] = {}

    def of(self, row: Row) -> Said:
        """The tallies of all tokens of the row's sequence that are known."""
        said = self._said.get(row.sequence_id)
        if said is None or said.history is not row.history:
            said = self._said[row.sequence_id] = Said(row.history, row.prompt_length)
        said.catch_up()
        return said

    def keep(self, rows: Iterable[Row]) -> None:
        """Forget the texts of all others."""
        known = self._said
        self._said = {
            row.sequence_id: known[row.sequence_id] for row in rows if row.sequence_id in known
        }
