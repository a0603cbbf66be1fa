"""Parts an answer from the thoughts before it, which models write between `<think>` and `</think>`.

Templates of some models write the opening tag themselves, at the end of the prompt; then the text
begins inside. White space around tags is layout and does not come out.
"""

from enum import Enum, auto

from pitcrew_runtime.text.reading import Read, Reader, joined
from pitcrew_runtime.text.stops import possible_start

OPEN, CLOSE = "<think>", "</think>"


class _Place(Enum):
    BEGINNING = auto()
    INSIDE = auto()
    BEHIND = auto()
    """The closing tag; white space may follow."""
    ANSWER = auto()


class Thoughts(Reader):
    """What follows the thoughts is read by another reader."""

    def __init__(self, answer: Reader, inside: bool) -> None:
        self._answer = answer
        self.marks = answer.marks
        self._inside = inside
        """Without an opening tag, the text begins with thoughts."""
        self._place = _Place.BEGINNING
        self._held = ""
        self._said = False

    @property
    def called(self) -> bool:  # type: ignore[override]
        """See `Reader`."""
        return self._answer.called

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        if self._place is _Place.ANSWER:
            return self._answer.feed(text)
        self._held += text
        reads = []
        if self._place is _Place.BEGINNING:
            self._begin()
        if self._place is _Place.INSIDE:
            reads.append(self._think())
        if self._place is _Place.BEHIND and self._held.lstrip():
            self._place, self._held = _Place.ANSWER, self._held.lstrip()
        if self._place is _Place.ANSWER:
            reads.append(self._answer.feed(self._held))
            self._held = ""
        return joined(reads)

    def mark(self, token: int) -> Read:
        """See `Reader`. Within thoughts it divides nothing."""
        begins = self._place is _Place.BEGINNING
        if self._place is _Place.INSIDE or (begins and self._inside):
            return Read()
        held, self._held = self._held, ""
        before = self._answer.feed(held) if begins else Read()
        self._place = _Place.ANSWER
        return joined((before, self._answer.mark(token)))

    def flush(self) -> Read:
        """Thoughts that were never closed are thoughts."""
        held, self._held = self._held, ""
        if self._place is _Place.INSIDE or (self._place is _Place.BEGINNING and self._inside):
            return Read(reasoning=held.rstrip() if self._said else held.strip())
        begun = self._answer.feed(held) if self._place is _Place.BEGINNING else Read()
        return joined((begun, self._answer.flush()))

    def _begin(self) -> None:
        """Whether there are thoughts, once that is certain."""
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._place, self._held = _Place.INSIDE, start[len(OPEN) :]
        elif not OPEN.startswith(start):
            self._place = _Place.INSIDE if self._inside else _Place.ANSWER

    def _think(self) -> Read:
        """Thoughts, as far as they are certain."""
        if not self._said:
            self._held = self._held.lstrip()
        thought, closed, rest = self._held.partition(CLOSE)
        if closed:
            self._place, self._held = _Place.BEHIND, rest
            return Read(reasoning=thought.rstrip())
        thought = thought[: possible_start(thought, (CLOSE,))].rstrip()
        self._held = self._held[len(thought) :]
        self._said |= bool(thought)
        return Read(reasoning=thought)
