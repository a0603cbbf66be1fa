"""What an assistant's text turns out to be while it comes: reasoning, answer, calls."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pitcrew_runtime.text.calls.piece import CallPiece


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


def joined(reads: Sequence[Read]) -> Read:
    """All as one."""
    if len(reads) == 1:  # as with most tokens
        return reads[0]
    return Read(
        "".join(read.text for read in reads),
        tuple(call for read in reads for call in read.calls),
        "".join(read.reasoning for read in reads),
    )


def limited(read: Read, parallel: bool) -> Read:
    """With the first call only where several are not wanted."""
    if parallel or not read.calls:
        return read
    return replace(read, calls=tuple(one for one in read.calls if one.index == 0))
