"""An array that one process writes and others read: a file in memory that grows with it."""

import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_HEADER = 64
_MOST_AXES = _HEADER // 8 - 1


class Mailbox:
    """A float32 array after a header: its number of axes, and its length along each."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, value: Array) -> None:
        """Replace what is in it. Nobody may be reading."""
        if value.dtype != np.float32 or value.ndim > _MOST_AXES:
            raise ValueError(f"a mailbox takes float32 of {_MOST_AXES} axes, not {value.dtype}")
        memory = self._of_size(_HEADER + value.nbytes, grow=True)
        header = np.frombuffer(memory, np.int64, _HEADER // 8)
        header[0], header[1 : 1 + value.ndim] = value.ndim, value.shape
        np.frombuffer(memory, np.float32, value.size, _HEADER)[:] = value.reshape(-1)

    def read(self) -> Array:
        """What is in it: a view that the next `write` changes."""
        memory = self._of_size(_HEADER)
        axes, *dims = np.frombuffer(memory, np.int64, _HEADER // 8).tolist()
        shape = dims[:axes]
        size = int(np.prod(shape))
        memory = self._of_size(_HEADER + 4 * size)
        return np.frombuffer(memory, np.float32, size, _HEADER).reshape(shape)

    def _of_size(self, size: int, *, grow: bool = False) -> mmap.mmap:
        """The file in memory, at least so long."""
        if self._map is None or len(self._map) < size:
            there = os.fstat(self._descriptor).st_size
            if grow and there < size:
                # More than is wanted, since steps differ: growing maps the file anew everywhere.
                there = size * 2
                os.ftruncate(self._descriptor, there)
            self._map = mmap.mmap(self._descriptor, there)
        return self._map
