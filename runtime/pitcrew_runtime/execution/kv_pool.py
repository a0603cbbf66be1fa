"""The KV pools: one array of pages for the keys and one for the values of each layer.

The arrays never move, so a session binds them once and reads them without a copy. The graph only
reads: new keys and values are its outputs, and `write` puts them where they belong. Narrow ones are
codes that only the graph understands; here they are bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.errors import NotEnoughMemory
from pitcrew_runtime.execution.memory import resident_zeros

Array = NDArray[Any]

STORED_AS = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int8": np.int8,
    "float8_e4m3fn": np.int8,
}
"""What an element lies in the pools as, by `manifest.GraphInterface.kv_dtype`: bytes, where NumPy has no
such type."""


@dataclass(frozen=True, slots=True)
class PoolShape:
    """Geometry of the pools."""

    layers: int
    pages: int
    page_size: int
    kv_heads: int
    head_dim: int
    kv_dtype: str
    """A key of `STORED_AS`."""
    first_layer: int = 0
    """Of the layers that a rank computes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What an element lies in the pools as."""
        return np.dtype(STORED_AS[self.kv_dtype])

    @property
    def nbytes(self) -> int:
        """Bytes of all pools."""
        return len(self.names) * self.pages * self.page_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of a page in one pool."""
        return self.page_size * self.token_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes of a token in one pool."""
        return self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """[pages, page, kv_heads, head_dim] of one pool."""
        return self.pages, self.page_size, self.kv_heads, self.head_dim

    @property
    def names(self) -> tuple[str, ...]:
        """The graph's pool inputs, keys of every layer first."""
        return tuple(
            f"{kind}.{self.first_layer + layer}"
            for kind in ("key_pool", "value_pool")
            for layer in range(self.layers)
        )


class KVPool:
    """`arrays` are [pages, page, kv_heads, head_dim] each, in the order of `PoolShape.names`."""

    def __init__(self, shape: PoolShape) -> None:
        self.shape = shape
        try:
            whole = resident_zeros((len(shape.names), *shape.dims), shape.dtype)
        except MemoryError as error:
            raise NotEnoughMemory(
                f"the KV pool ({shape.pages} pages) could not be allocated: lower --kv-memory"
            ) from error
        self.arrays: tuple[Array, ...] = tuple(whole)
        self._flat = whole.reshape(len(whole), -1, shape.kv_heads, shape.head_dim)

    def write(self, slots: NDArray[np.int64], new: Array, take: NDArray[np.int64]) -> None:
        """Put new tokens into the pools.

        `new` [pools, B, S, kv_heads, head_dim] has those of each pool; `take` selects the N real
        tokens of its flattened [B x S], and `slots` [N] are their places (page x page size +
        offset).
        """
        tokens = new.reshape(len(new), -1, *new.shape[3:])
        self._flat[:, slots] = tokens[:, take]

    def keep(
        self,
        slots: NDArray[np.int64],
        contexts: Array,
        rows: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> None:
        """Put the tokens at `places` [N] of the `rows` [N] of contexts into the pools' `slots` [N].

        `contexts` are [pools, B, kv_heads, T, head_dim].
        """
        # Indices with a slice between them come first: [N, pools, kv_heads, head_dim].
        self._flat[:, slots] = contexts[:, rows, :, places].swapaxes(0, 1)

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Make the second page of each pair what the first is."""
        if not pairs:
            return
        sources, targets = (list(pages) for pages in zip(*pairs, strict=True))
        for array in self.arrays:
            array[targets] = array[sources]
