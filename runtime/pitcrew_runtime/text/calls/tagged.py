"""Finds calls between tags in an assistant's text while it comes.

What looks like a call and is none is text after all: nothing that the model said is lost. What was
told of a call cannot be taken back: where it goes wrong later, its arguments stay as far as they
came, and the rest is text.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pitcrew_runtime.text.calls.piece import CallText, pushed
from pitcrew_runtime.text.json_text import BLANK
from pitcrew_runtime.text.reading import Read, Reader, joined, limited
from pitcrew_runtime.text.stops import possible_start

Opened = Callable[[str, int], CallText]
"""What reads the calls whose first character and whose first index are given."""
NO_MARKS: Mapping[int, str] = {}


@dataclass(frozen=True, slots=True)
class Tags:
    """What stands around calls. Some formats close with the next opening tag or the end."""

    open: str
    close: str = ""


class TaggedCalls(Reader):
    """Calls between tags, any number of them among text.

    A tag that is a token of the tokenizer comes as one of `marks`, by its name. White space around
    the tags is layout and does not come out.
    """

    def __init__(
        self,
        tags: Tags,
        opened: Opened,
        parallel: bool = True,
        marks: Mapping[int, str] = NO_MARKS,
    ) -> None:
        self.called = False
        self.marks = marks.keys()
        self._names = marks
        self._tags = tags
        self._opened = opened
        self._parallel = parallel
        self._held = ""
        self._layout = ""
        """White space and the tag before a call that is not certain."""
        self._is_open = False
        self._calls: CallText | None = None
        """What stands between the tags, inside of them and once it has begun."""
        self._begun = 0

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        self._held += text
        return limited(joined(list(self._steps())), self._parallel)

    def mark(self, token: int) -> Read:
        """See `Reader`."""
        return self.feed(self._names[token])

    def flush(self) -> Read:
        """A call without its closing tag counts where it is whole; models forget the tag."""
        held, self._held = self._held, ""
        if not self._is_open:
            return Read(held if held.strip() or not self._begun else "")
        calls, self._calls, self._is_open = self._calls, None, False
        if calls is None:
            return Read(self._layout + held)
        if calls.complete and self._tags.close.startswith(_tail(calls, held).rstrip(BLANK)):
            return Read()
        return Read(self._undone(calls) + held)

    def _steps(self) -> Iterator[Read]:
        """What lies before each next tag, as far as the text goes."""
        progress = True
        while progress:
            if self._is_open:
                read, progress = self._inside()
                yield read
            else:
                said, progress = self._outside()
                yield Read(said)

    def _outside(self) -> tuple[str, bool]:
        """Text up to the next tag, and whether there is one."""
        before, found, after = self._held.partition(self._tags.open)
        if not found:
            before = before[: possible_start(before, (self._tags.open,))]
        said = before.rstrip()
        if not found:
            self._held = self._held[len(said) :]
            return said, False
        self._layout, self._held = before[len(said) :] + self._tags.open, after
        self._is_open = True
        return said, True

    def _inside(self) -> tuple[Read, bool]:
        """Calls up to the closing tag, or up to what is none; False where more has to come."""
        begin = self._held.lstrip(BLANK)[:1]
        if self._calls is None and not begin:
            return Read(), False
        calls = self._calls = self._calls or self._opened(begin, self._begun)
        self._held = pushed(calls, self._held)
        told = Read("", calls.take())
        self._begun, self.called = calls.begun, self.called or bool(calls.whole)
        return (self._end(calls, told), True) if self._is_over(calls) else (told, False)

    def _is_over(self, calls: CallText) -> bool:
        """Whether what follows belongs to the calls no more; a closing tag may be cut in two."""
        if not self._held:
            return False
        tail, close = _tail(calls, self._held), self._tags.close
        return not (calls.complete and len(tail) < len(close) and close.startswith(tail))

    def _end(self, calls: CallText, told: Read) -> Read:
        self._calls, self._is_open = None, False
        tail = _tail(calls, self._held)
        if calls.complete and tail.startswith(self._tags.close):
            self._held = tail.removeprefix(self._tags.close)
            return told
        return Read(self._undone(calls), told.calls)

    def _undone(self, calls: CallText) -> str:
        """What was held of a call that is none; tags around another one are no text."""
        return calls.held if calls.begun > calls.first else self._layout + calls.held


def _tail(calls: CallText, rest: str) -> str:
    """What follows whole calls, without what may stand between them."""
    return (calls.held + rest).lstrip(BLANK + ";")
