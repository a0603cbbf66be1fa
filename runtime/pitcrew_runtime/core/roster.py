"""Who is where: every live sequence, from its arrival to its end.

    arrival ──▶ WAITING ──▶ PREFILLING ──▶ DECODING ──▶ ENDED
       │          ▲  ▲            │            │          ▲
       └─▶ HELD ──┘  └────────────┴────────────┘          │
                         preempted, rolled back           from anywhere

The roster moves sequences and takes back what they hold. It decides nothing.
"""

from collections.abc import Iterator

from pitcrew_runtime.core.adapters import NO_ADAPTER, AdapterSlots
from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.heap import SequenceHeap
from pitcrew_runtime.core.placement import Placement
from pitcrew_runtime.core.request import Finish
from pitcrew_runtime.core.sequence import NO_ROW, Sequence, State
from pitcrew_runtime.core.waiting import WaitingRoom


class Roster:
    """The sequences of one scheduler."""

    def __init__(self, waiting: WaitingRoom, placement: Placement, slots: AdapterSlots) -> None:
        self.room = waiting
        self.live: dict[int, Sequence] = {}
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self._placement = placement
        self._slots = slots
        self._held: dict[int, list[Sequence]] = {}
        self._deadlines: SequenceHeap[float] = SequenceHeap()
        self._cancelled: set[int] = set()
        self._turn = 0

    @property
    def running(self) -> int:
        """Sequences that have pages."""
        return len(self.prefilling) + len(self.decoding)

    @property
    def waiting(self) -> int:
        """Sequences that have none."""
        return len(self.live) - self.running

    def arrive(self, sequence: Sequence) -> None:
        """Let a sequence wait, for its turn or for the one it forks from.

        Raises `ValueError` where the two do not begin alike.
        """
        request = sequence.request
        parent = self.live.get(request.fork_of) if request.fork_of is not None else None
        if parent is not None and not request.begins_like(parent.request):
            raise ValueError(f"request {request.id} forks {parent.id}, whose prompt is another")
        self.live[sequence.id] = sequence
        if request.deadline is not None:
            self._deadlines.push(request.deadline, sequence)
        if parent is None or parent.state is State.DECODING:
            if parent is not None:
                sequence.follow(parent)
            self.room.push(sequence)
        else:
            sequence.state = State.HELD
            self._held.setdefault(parent.id, []).append(sequence)

    def admit(self, sequence: Sequence) -> None:
        """From the waiting room, which has shown it, to those that run."""
        self._turn += 1
        sequence.turn = self._turn
        sequence.slot = self._slots.take(sequence.request.adapter)
        sequence.state = State.PREFILLING
        self.prefilling.append(sequence)

    def decode(self, sequence: Sequence, row: Row) -> None:
        """Its prompt is computed: it has this row from here on."""
        sequence.row = row
        sequence.state = State.DECODING
        self.prefilling.remove(sequence)
        self.decoding.append(sequence)
        self._release_forks(sequence)

    def evict(self, sequence: Sequence) -> None:
        """From running back to waiting, without pages. Forks that wait for it go on waiting."""
        self._stop(sequence)
        sequence.state = State.WAITING
        self.room.push(sequence)

    def end(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is."""
        if sequence.running:
            self._stop(sequence)
        elif sequence.state is State.HELD:
            self._held[sequence.request.fork_of or 0].remove(sequence)
        else:
            self.room.discard(sequence)
        sequence.state = State.ENDED
        sequence.parent = None
        del self.live[sequence.id]
        self._cancelled.discard(sequence.id)
        self._deadlines.discard(sequence)
        self._release_forks(sequence)

    def cancel(self, sequence_id: int) -> None:
        """Mark a sequence; unknown and ended ones are ignored."""
        if sequence_id in self.live:
            self._cancelled.add(sequence_id)

    def due(self, now: float) -> Iterator[tuple[Sequence, Finish]]:
        """Those that are to end, and why; each is to be ended before the next is asked for."""
        for sequence_id in sorted(self._cancelled):
            yield self.live[sequence_id], Finish.CANCELLED
        while len(self._deadlines) and self._deadlines.head()[0] <= now:
            yield self._deadlines.pop(), Finish.TIMEOUT

    def last(self) -> Sequence:
        """The running sequence that others come before."""
        running = (*self.prefilling, *self.decoding)
        return max(running, key=lambda one: (one.request.priority, one.turn))

    def _stop(self, sequence: Sequence) -> None:
        """Take back what a running sequence holds."""
        runs_in = self.decoding if sequence.state is State.DECODING else self.prefilling
        runs_in.remove(sequence)
        sequence.row = NO_ROW
        self._placement.release(sequence)
        self._slots.release(sequence.slot)
        sequence.slot = NO_ADAPTER

    def _release_forks(self, parent: Sequence) -> None:
        """Its forks wait no longer: it has computed their prompt, or never will."""
        for sequence in self._held.pop(parent.id, ()):
            sequence.follow(parent)
            sequence.state = State.WAITING
            self.room.push(sequence)
