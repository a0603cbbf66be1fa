"""The waiting room: who is admitted next, in O(log n).

Shortest-first with ageing needs no clock: a prompt of n tokens that came at time a has, at time t,
the urgency n - rate * (t - a). As t is the same for all, sorting by n + rate * a is sorting by
urgency, and that key never changes. First-come-first-served is the key without its prompt.
"""

import heapq
from enum import StrEnum

from pitcrew_runtime.core.sequence import Sequence

AGEING_TOKENS_PER_SECOND = 256.0
"""A second of waiting counts as much as a prompt that is this much shorter."""


class Policy(StrEnum):
    """The order of admission."""

    FCFS = "fcfs"
    SHORTEST_FIRST = "shortest-first"


_Key = tuple[int, float, int]


class WaitingRoom:
    """Sequences by urgency. Preempted ones come first: they hold text that somebody reads."""

    def __init__(
        self, policy: Policy = Policy.FCFS, ageing: float = AGEING_TOKENS_PER_SECOND
    ) -> None:
        self._policy = policy
        self._ageing = ageing
        self._plain, self._adapted = _Lane(), _Lane()

    def __len__(self) -> int:
        return len(self._plain) + len(self._adapted)

    def push(self, sequence: Sequence) -> None:
        """Let a sequence wait (again)."""
        self._lane_of(sequence).push(self._key(sequence), sequence)

    def peek(self, *, adapters: bool = True) -> Sequence | None:
        """The next to be admitted; without `adapters`, of those that need none."""
        lane = self._first(adapters)
        return lane.head()[1] if lane else None

    def pop(self, *, adapters: bool = True) -> Sequence:
        """Take out what `peek` shows."""
        lane = self._first(adapters)
        if lane is None:
            raise LookupError("nobody waits")
        return lane.pop()

    def discard(self, sequence: Sequence) -> None:
        """Forget a sequence that waits here."""
        self._lane_of(sequence).discard(sequence)

    def _lane_of(self, sequence: Sequence) -> "_Lane":
        return self._plain if sequence.request.adapter is None else self._adapted

    def _first(self, adapters: bool) -> "_Lane | None":
        """The lane with the most urgent head; None where nobody waits."""
        lanes = (self._plain, self._adapted) if adapters else (self._plain,)
        return min(filter(len, lanes), key=_Lane.head, default=None)

    def _key(self, sequence: Sequence) -> _Key:
        if sequence.started:
            return (0, 0.0, sequence.serial)
        if self._policy is Policy.FCFS:
            return (1, 0.0, sequence.serial)
        aged = len(sequence.request.prompt) + self._ageing * sequence.request.arrival
        return (1, aged, sequence.serial)


class _Lane:
    """A heap of sequences, and which of its entries still count."""

    def __init__(self) -> None:
        self._heap: list[tuple[_Key, Sequence]] = []
        self._live: set[int] = set()

    def __len__(self) -> int:
        return len(self._live)

    def push(self, key: _Key, sequence: Sequence) -> None:
        heapq.heappush(self._heap, (key, sequence))
        self._live.add(sequence.serial)

    def head(self) -> tuple[_Key, Sequence]:
        """The most urgent entry of a lane that is not empty."""
        while self._heap[0][1].serial not in self._live:
            heapq.heappop(self._heap)
        return self._heap[0]

    def pop(self) -> Sequence:
        self.head()
        sequence = heapq.heappop(self._heap)[1]
        self._live.remove(sequence.serial)
        return sequence

    def discard(self, sequence: Sequence) -> None:
        """Its entry stays until it surfaces, and a heap that is half dead is rebuilt: O(1) amortized."""
        self._live.remove(sequence.serial)
        if len(self._heap) > 2 * len(self._live) + 64:
            self._heap = [entry for entry in self._heap if entry[1].serial in self._live]
            heapq.heapify(self._heap)
