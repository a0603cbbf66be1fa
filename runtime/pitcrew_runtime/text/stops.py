"""Finds stop strings in a stream, and holds back what may become one."""

from collections.abc import Sequence


class StopFinder:
    """Feed pieces of text; what comes out never holds a stop string, nor the start of one.

    The stop that ends first wins, the longest among those; so the result does not depend on how the
    text was cut into pieces. With `shown`, the stop string itself comes out as the last of the text.
    """

    def __init__(self, stops: Sequence[str], shown: bool = False) -> None:
        self._stops = tuple(stops)
        self._shown = shown
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Add text; the text that may go out. After `found` is set, nothing more comes."""
        if not self._stops:
            return piece
        if self.found:
            return ""
        text = self._held + piece
        cut = self._first_stop(text)
        if cut is not None:
            self.found, self._held = True, ""
            return text[:cut]
        keep = possible_start(text, self._stops)
        self._held = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """The end of the text: what was held back was no stop string."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> int | None:
        """Where the text is cut for the winning stop string."""
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not found:
            return None
        end, start = min(found)
        return end if self._shown else start


def possible_start(text: str, marks: Sequence[str]) -> int:
    """Where the longest tail begins that one of `marks` begins with."""
    longest = max(len(mark) for mark in marks) - 1
    for start in range(max(0, len(text) - longest), len(text)):
        tail = text[start:]
        if any(mark.startswith(tail) for mark in marks):
            return start
    return len(text)
