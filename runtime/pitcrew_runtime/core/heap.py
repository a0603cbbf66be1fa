"""A heap of sequences from which any one can be taken back."""

import heapq
from typing import Generic, TypeVar

from pitcrew_runtime.core.sequence import Sequence

Key = TypeVar("Key", float, tuple[int, int, float, int])


class SequenceHeap(Generic[Key]):
    """The least key first; a sequence stands in it at most once. O(log n) amortized.

    Whatever is taken back is let go of at once, with all that it refers to.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int]] = []
        self._live: dict[int, Sequence] = {}

    def __len__(self) -> int:
        return len(self._live)

    def push(self, key: Key, sequence: Sequence) -> None:
        """Put a sequence in."""
        heapq.heappush(self._heap, (key, sequence.serial))
        self._live[sequence.serial] = sequence

    def head(self) -> tuple[Key, Sequence]:
        """The first; the heap is not empty."""
        while self._heap[0][1] not in self._live:
            heapq.heappop(self._heap)
        key, serial = self._heap[0]
        return key, self._live[serial]

    def pop(self) -> Sequence:
        """Take out what `head` shows."""
        self.head()
        _, serial = heapq.heappop(self._heap)
        return self._live.pop(serial)

    def discard(self, sequence: Sequence) -> None:
        """Forget a sequence, if it is here.

        Its key stays until it surfaces, and a heap that is half dead is rebuilt: O(1) amortized.
        """
        self._live.pop(sequence.serial, None)
        if len(self._heap) > 2 * len(self._live) + 64:
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapq.heapify(self._heap)
