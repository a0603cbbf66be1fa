"""Sequences that grow together in a graph of `manifest.GraphInterface`, with pages and without."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.pools import Contexts, Pools
from pitcrew_builder.positions import first_positions
from pitcrew_builder.proof.measure import Floats
from pitcrew_builder.proof.windows import Ids, Windows

Run: TypeAlias = Callable[[dict[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]
"""Inputs by name to outputs by name, of one rank or of all ranks together."""


class Sequences(Protocol):
    """Rows of tokens whose next positions can be computed."""

    def extend(self, rows: Windows, start: int, stop: int) -> Floats:
        """Logits [rows, stop - start, vocab] of positions `start` to `stop`, asked in order."""
        ...


class Paged:
    """Rows over a pool of pages, as they are served."""

    def __init__(
        self,
        run: Run,
        facts: ModelFacts,
        dtype: np.dtype[Any],
        page: int,
        capacity: int,
        rows: Windows,
    ) -> None:
        """`capacity` tokens have room in the page table; pages exist for what the rows need."""
        self._run = run
        self._page = page
        self._facts = facts
        self._first = first_positions(facts, rows.lengths)
        count, held = len(rows.ids), -(-rows.width // page)
        pages = np.arange(count * held, dtype=np.int64)[::-1].reshape(count, held)
        # A table wider than its sequence repeats a page: any valid one will do.
        self._tables = np.pad(pages, ((0, 0), (0, capacity // page - held)))
        self._pools = Pools(facts, dtype, count * held, page)

    def extend(self, rows: Windows, start: int, stop: int) -> Floats:
        """See `Sequences`. Rows may have grown since."""
        self._rotate_anew(rows, start)
        counts = np.clip(rows.lengths - start, 0, stop - start)
        starts = np.minimum(rows.lengths, start)
        return self.take(rows.ids[:, start:stop], starts, counts, np.arange(stop - start))

    def _rotate_anew(self, rows: Windows, start: int) -> None:
        """Compute again, as far as `start`, what is a short text no longer."""
        first = first_positions(self._facts, rows.lengths)
        grown, self._first = first != self._first, first
        if start and grown.any():
            again = np.where(grown, start, 0)
            self.take(rows.ids[:, :start], np.where(grown, 0, start), again, np.array([0]))

    def take(self, ids: Ids, starts: Ids, counts: Ids, asked: Ids) -> Floats:
        """Append to each row the first `counts` [rows] of `ids` [rows, S], behind `starts` [rows].

        Returns the logits [rows, n, vocab] at the places `asked` [n] of S.
        """
        outputs = self._run(
            {
                **_inputs(ids, self._first, starts, counts, asked),
                "block_tables": self._tables,
                **self._pools.arrays,
            }
        )
        self._store(outputs, starts, counts)
        logits: Floats = outputs["logits"]
        return logits

    def _store(self, outputs: dict[str, npt.NDArray[Any]], starts: Ids, counts: Ids) -> None:
        row, column = np.nonzero(np.arange(int(counts.max())) < counts[:, None])
        slots = starts[row] + column
        pages, offsets = self._tables[row, slots // self._page], slots % self._page
        self._pools.store(outputs, row, column, pages, offsets)


class InContexts:
    """Rows whose tokens lie side by side, in the form of the graph that reads them so."""

    def __init__(self, run: Run, facts: ModelFacts, lengths: Ids, capacity: int) -> None:
        """Rows of `capacity` tokens at most, rotated as texts of `lengths` [rows]."""
        self._run = run
        self._first = first_positions(facts, lengths)
        self._contexts = Contexts(facts, len(lengths), capacity)

    def take(self, ids: Ids, starts: Ids, counts: Ids, asked: Ids) -> Floats:
        """See `Paged.take`. Rows that have tokens already go on by one at a time."""
        inputs = _inputs(ids, self._first, starts, counts, asked)
        outputs = self._run({**inputs, **self._contexts.arrays})
        self._contexts.take(outputs)
        logits: Floats = outputs["logits"]
        return logits


class Plain:
    """Rows computed from their first token each time, without any cache."""

    def __init__(self, run: Run, facts: ModelFacts, dtype: np.dtype[Any], page: int) -> None:
        self._run = run
        self._facts = facts
        self._pools = Pools(facts, dtype, 1, page)

    def extend(self, rows: Windows, start: int, stop: int) -> Floats:
        """See `Sequences`."""
        count = len(rows.ids)
        outputs = self._run(
            {
                "input_ids": rows.ids[:, :stop],
                "positions": self._positions(rows, stop),
                "block_tables": np.zeros((count, 0), np.int64),
                "context_lengths": np.zeros(count, np.int64),
                "logit_indices": np.tile(np.arange(start, stop), (count, 1)),
                **self._pools.arrays,
            }
        )
        logits: Floats = outputs["logits"]
        return logits

    def _positions(self, rows: Windows, stop: int) -> Ids:
        """Those before `stop`; 0 where a row has ended."""
        index, first = np.arange(stop), first_positions(self._facts, rows.lengths)
        return np.where(index < rows.lengths[:, None], first[:, None] + index, 0)


def _inputs(
    ids: Ids, first: Ids, starts: Ids, counts: Ids, asked: Ids
) -> dict[str, npt.NDArray[Any]]:
    """What both forms of the graph are told of new tokens; padding stands at position 0."""
    column = np.arange(ids.shape[1])
    return {
        "input_ids": ids,
        "positions": np.where(column < counts[:, None], (first + starts)[:, None] + column, 0),
        "context_lengths": starts,
        "logit_indices": np.tile(asked, (len(ids), 1)),
    }
