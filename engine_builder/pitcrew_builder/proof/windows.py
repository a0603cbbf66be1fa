"""Texts of unlike length as one padded rectangle."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Rows of tokens: `ids` [rows, width], padded with 0 after each row's own `lengths` [rows]."""

    ids: Ids
    lengths: Ids

    @classmethod
    def of(cls, rows: list[list[int]]) -> Self:
        """Pad rows to the longest."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        return cls(ids, lengths)

    @property
    def width(self) -> int:
        """The longest row's tokens."""
        return int(self.ids.shape[1])

    def rows(self, start: int, count: int) -> Self:
        """`count` rows from `start`, going round: a short file fills a large batch too."""
        chosen = np.arange(start, start + count) % len(self.ids)
        return type(self)(self.ids[chosen], self.lengths[chosen])

    def predicted(self, start: int, stop: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """For positions `start` to `stop`: whether a next token is known [rows, n], and it."""
        following = np.roll(self.ids, -1, axis=1)[:, start:stop]
        known = np.arange(start, stop) + 1 < self.lengths[:, None]
        return known, following
