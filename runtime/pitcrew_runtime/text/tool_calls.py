"""Finds tool calls in an assistant's text while it comes.

Models write calls as they were trained to: between `<tool_call>` tags (Hermes, Qwen), or as the
whole message (Llama 3). A call that is forced is held to JSON and needs no marks. What looks like
a call and is none is text after all: nothing that the model said is lost. What was told of a call
cannot be taken back: where it goes wrong later, its arguments stay as far as they came, and the
rest is text.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum

from pitcrew_runtime.text.call_text import CallPiece, CallText, new_id
from pitcrew_runtime.text.json_text import BLANK
from pitcrew_runtime.text.reading import Read, Reader, joined
from pitcrew_runtime.text.stops import possible_start


class CallFormat(StrEnum):
    """How a model writes calls when it chooses to make them."""

    HERMES = "hermes"
    LLAMA3_JSON = "llama3_json"


def format_of(template: str) -> CallFormat | None:
    """The format that a chat template tells its model to use; None for one that is not known."""
    if "<tool_call>" in template:
        return CallFormat.HERMES
    if '"parameters"' in template and "<|python_tag|>" in template:
        return CallFormat.LLAMA3_JSON
    return None


class HermesCalls(Reader):
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`, any number of them among text.

    White space around the calls is layout and does not come out.
    """

    _OPEN, _CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self, parallel: bool = True) -> None:
        self.called = False
        self._parallel = parallel
        self._held = ""
        self._layout = ""
        """White space and the tag before a call that is not certain."""
        self._calls: CallText | None = None
        """What stands between the tags, inside of them."""
        self._begun = 0

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        self._held += text
        return _kept(self._steps(), self._parallel)

    def flush(self) -> Read:
        """A call without its closing tag counts where it is whole; models forget the tag."""
        held, self._held = self._held, ""
        if self._calls is None:
            return Read(held if held.strip() or not self._begun else "")
        calls, self._calls = self._calls, None
        return Read("" if calls.complete else self._undone(calls) + held)

    def _steps(self) -> Iterator[Read]:
        """What lies before each next tag, as far as the text goes."""
        progress = True
        while progress:
            if self._calls is None:
                said, progress = self._outside()
                yield Read(said)
            else:
                read, progress = self._inside(self._calls)
                yield read

    def _outside(self) -> tuple[str, bool]:
        """Text up to the next tag, and whether there is one."""
        before, found, after = self._held.partition(self._OPEN)
        if not found:
            before = before[: possible_start(before, (self._OPEN,))]
        said = before.rstrip()
        if not found:
            self._held = self._held[len(said) :]
            return said, False
        self._layout, self._held = before[len(said) :] + self._OPEN, after
        self._calls = CallText(self._begun)
        return said, True

    def _inside(self, calls: CallText) -> tuple[Read, bool]:
        """Calls up to the closing tag, or up to what is none; False where more has to come."""
        rest = _pushed(calls, self._held)
        told = calls.take()
        self._begun, self.called = calls.begun, self.called or bool(calls.whole)
        if not rest or (
            calls.complete and len(rest) < len(self._CLOSE) and self._CLOSE.startswith(rest)
        ):
            self._held = rest
            return Read("", told), False
        self._calls = None
        if calls.complete and rest.startswith(self._CLOSE):
            self._held = rest[len(self._CLOSE) :]
            return Read("", told), True
        self._held = rest
        return Read(self._undone(calls), told), True

    def _undone(self, calls: CallText) -> str:
        """What was held of a call that is none; tags around another one are no text."""
        return calls.held if calls.begun > calls.first else self._layout + calls.held


class MessageCalls(Reader):
    """A message that is nothing but calls: Llama 3's objects with `;` between, or an array."""

    def __init__(self, parallel: bool = True) -> None:
        self.called = False
        self._parallel = parallel
        self._calls = CallText()
        self._is_text = False

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        if self._is_text:
            return Read(text)
        rest = _pushed(self._calls, text)
        read = Read("", self._calls.take())
        self.called |= bool(self._calls.whole)
        if rest:
            self._is_text = True
            read = Read(self._calls.held + rest, read.calls)
        return _kept([read], self._parallel)

    def flush(self) -> Read:
        """See `Reader`."""
        if self._is_text or (self._calls.complete and not self._calls.held.strip(BLANK + ";")):
            return Read()
        return Read(self._calls.held)


class OneCall(Reader):
    """The text is the arguments of a function that was chosen already."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        if not text:
            return Read()
        if self._begun:
            return Read("", (CallPiece(0, text),))
        self._begun = True
        return Read("", (CallPiece(0, text, new_id(), self._name),))

    def flush(self) -> Read:
        """See `Reader`."""
        return Read()


def _pushed(calls: CallText, text: str) -> str:
    """What is left of a text from where calls cannot go on with it."""
    for place, char in enumerate(text):
        if not calls.push(char):
            return text[place:]
    return ""


def _kept(reads: Iterable[Read], parallel: bool) -> Read:
    """All as one, with the first call only where several are not wanted."""
    read = joined(list(reads))
    return replace(read, calls=tuple(one for one in read.calls if parallel or one.index == 0))
