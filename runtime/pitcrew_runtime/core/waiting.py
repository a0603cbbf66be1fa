"""The waiting room: who is admitted next, in O(log n).

Shortest-first with ageing needs no clock: a prompt of n tokens that came at time a has, at time t,
the urgency n - rate * (t - a). As t is the same for all, sorting by n + rate * a is sorting by
urgency, and that key never changes. First-come-first-served is the key without its prompt.

However long a prompt is, only so much of it counts that ageing makes up for it in `PATIENCE` seconds:
nobody is passed by one that came later than that, so each has a finite number before it and starves
under no load.
"""

from enum import StrEnum

from pitcrew_runtime.core.heap import SequenceHeap
from pitcrew_runtime.core.sequence import Sequence

AGEING_TOKENS_PER_SECOND = 256.0
"""A second of waiting counts as much as a prompt that is this much shorter."""
PATIENCE = 30.0
"""Seconds after which nobody who comes is let in before one who waits, priorities apart."""


class Policy(StrEnum):
    """The order of admission."""

    FCFS = "fcfs"
    SHORTEST_FIRST = "shortest-first"


_Key = tuple[int, int, float, int]


class WaitingRoom:
    """Sequences by priority, then urgency.

    Within a priority, preempted ones come first, for they hold text that somebody reads, and forks
    of running ones, for they need little.
    """

    def __init__(
        self, policy: Policy = Policy.FCFS, ageing: float = AGEING_TOKENS_PER_SECOND
    ) -> None:
        self._policy = policy
        self._ageing = ageing
        self._plain: SequenceHeap[_Key] = SequenceHeap()
        self._adapted: SequenceHeap[_Key] = SequenceHeap()

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

    def _lane_of(self, sequence: Sequence) -> SequenceHeap[_Key]:
        return self._plain if sequence.request.adapter is None else self._adapted

    def _first(self, adapters: bool) -> SequenceHeap[_Key] | None:
        """The lane with the most urgent head; None where nobody waits."""
        lanes = (self._plain, self._adapted) if adapters else (self._plain,)
        return min(filter(len, lanes), key=lambda lane: lane.head()[0], default=None)

    def _key(self, sequence: Sequence) -> _Key:
        priority = sequence.request.priority
        if sequence.started or sequence.parent is not None:
            return (priority, 0, 0.0, sequence.serial)
        if self._policy is Policy.FCFS:
            return (priority, 1, 0.0, sequence.serial)
        length = min(len(sequence.request.prompt), self._ageing * PATIENCE)
        aged = length + self._ageing * sequence.request.arrival
        return (priority, 1, aged, sequence.serial)
