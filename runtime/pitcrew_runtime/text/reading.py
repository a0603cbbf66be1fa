"""What an assistant's text turns out to be while it comes: reasoning, answer, calls."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pitcrew_runtime.text.call_text import CallPiece


@dataclass(frozen=True, slots=True)
class Read:
    """What became certain: text for the reader, parts of calls, and thoughts before them."""

    text: str = ""
    calls: tuple[CallPiece, ...] = ()
    reasoning: str = ""


class Reader:
    """Reads one message. This one takes all of it for text."""

    called = False
    """The model has decided to call something, and what it calls is whole."""
    marks: Collection[int] = frozenset()
    """Tokens that are no text and divide it: see `mark`."""

    def feed(self, text: str) -> Read:
        """Add text."""
        return Read(text)

    def mark(self, token: int) -> Read:
        """Add one of `marks`."""
        return Read()

    def flush(self) -> Read:
        """The end of the text."""
        return Read()


def joined(reads: Iterable[Read]) -> Read:
    """All as one."""
    found = list(reads)
    if len(found) == 1:
        return found[0]
    return Read(
        "".join(read.text for read in found),
        tuple(call for read in found for call in read.calls),
        "".join(read.reasoning for read in found),
    )


def possible_start(text: str, mark: str) -> int:
    """Where the longest tail begins that `mark` begins with."""
    for start in range(max(0, len(text) - len(mark) + 1), len(text)):
        if mark.startswith(text[start:]):
            return start
    return len(text)
