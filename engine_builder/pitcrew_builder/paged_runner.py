"""Drives a network of `manifest.GraphInterface`, one sequence at a time.

As plain as can be: it serves the proof of a build, not users.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.network import Network, Tensor
from pitcrew_builder.pools import Pools
from pitcrew_builder.positions import first_positions

Floats: TypeAlias = npt.NDArray[np.float32]


class PagedRunner:
    """One sequence over a pool that is just large enough for it, rotated as one of that length."""

    def __init__(self, network: Network, facts: ModelFacts, page: int, capacity: int) -> None:
        self._network = network
        self._page = page
        self._first = first_positions(facts, np.array([capacity]))
        pages = -(-capacity // page)
        # Descending, so that a graph that ignored the table would read other pages.
        self._table = np.arange(pages, dtype=np.int64)[::-1]
        self._pools = Pools(facts, network.pool_dtype, pages, page)
        self._length = 0

    def reset(self) -> None:
        """Forget the sequence."""
        self._length = 0

    def extend(self, tokens: list[int]) -> Floats:
        """Append tokens and return the logits [len(tokens), vocab] after each."""
        start, count = self._length, len(tokens)
        used = -(-start // self._page)
        named = self._network.run(
            {
                "input_ids": np.array([tokens], dtype=np.int64),
                "positions": self._first[:, None] + np.arange(start, start + count),
                "block_tables": self._table[None, :used],
                "context_lengths": np.array([start], dtype=np.int64),
                "logit_indices": np.arange(count, dtype=np.int64)[None],
                **self._pools.arrays,
            }
        )
        self._store(named, start, count)
        self._length += count
        logits: Floats = named["logits"][0]
        return logits

    def _store(self, outputs: Mapping[str, Tensor], start: int, count: int) -> None:
        slots = np.arange(start, start + count)
        pages, offsets = self._table[slots // self._page], slots % self._page
        self._pools.store(outputs, np.zeros_like(slots), slots - start, pages, offsets)
