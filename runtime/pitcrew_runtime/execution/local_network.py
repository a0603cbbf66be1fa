"""What networks of this process have in common: pools of pages, and adapter slots."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.kv_pool import KVPool, PoolShape
from pitcrew_runtime.execution.packing import Packed
from pitcrew_runtime.execution.sampler import likeliest
from pitcrew_runtime.execution.scoring import TOGETHER


class LocalNetwork:
    """All of a `Network` but `run`."""

    def __init__(self, shape: PoolShape, adapters: AdapterPool | None) -> None:
        self._shape = shape
        self._pool = KVPool(shape)
        self._adapters = adapters

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return self._shape.pages

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self._shape.page_size

    @property
    def wanted(self) -> int:
        """See `Network`: as many as fit into memory comfortably."""
        return TOGETHER

    @property
    def fault(self) -> str | None:
        """A session can always be asked again."""
        return None

    def close(self) -> None:
        """See `Network`: there is nothing to do."""

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `Network`."""
        self._pool.copy(pairs)

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        """See `Network`."""
        if self._adapters is not None:
            self._adapters.hold(adapters)

    def run(self, packed: Packed) -> NDArray[np.float32]:
        """See `Network`."""
        raise NotImplementedError

    def likeliest(self, packed: Packed) -> NDArray[np.int64]:
        """See `Network`."""
        return likeliest(self.run(packed))
