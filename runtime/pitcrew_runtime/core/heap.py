"""A heap of sequences from which any one can be taken back."""

import heapq
from typing import Generic, TypeVar

from pitcrew_runtime.core.sequence import Sequence

Key = TypeVar("Key", float, tuple[int, int, float, int])


class SequenceHeap(Generic[Key]):
    """The least key first; a sequence stands in it at most once. O(log n) amortized."""

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int, Sequence]] = []
        self._live: set[int] = set()

    def __len__(self) -> int:
        return len(self._live)

    def push(self, key: Key, sequence: Sequence) -> None:
        """Put a sequence in."""
        heapq.heappush(self._heap, (key, sequence.serial, sequence))
        self._live.add(sequence.serial)

    def head(self) -> tuple[Key, Sequence]:
        """The first; the heap is not empty."""
        while self._heap[0][1] not in self._live:
            heapq.heappop(self._heap)
        key, _, sequence = self._heap[0]
        return key, sequence

    def pop(self) -> Sequence:
        """Take out what `head` shows."""
        _, sequence = self.head()
        heapq.heappop(self._heap)
        self._live.remove(sequence.serial)
        return sequence

    def discard(self, sequence: Sequence) -> None:
        """Forget a sequence, if it is here.

        Its entry stays until it surfaces, and a heap that is half dead is rebuilt: O(1) amortized.
        """
        self._live.discard(sequence.serial)
        if len(self._heap) > 2 * len(self._live) + 64:
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapq.heapify(self._heap)
