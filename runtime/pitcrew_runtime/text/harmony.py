"""Reads messages in GPT-OSS's format, harmony.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>

Each message has a header that names a channel, and perhaps who it is for: `final` is the answer,
`commentary` for a function is a call with its arguments, without one it is said to the user; all
else is reasoning. The marks are tokens of their own, so text that only looks like one is text.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto

from pitcrew_runtime.text.calls.piece import CallPiece, new_id
from pitcrew_runtime.text.json_text import JsonText
from pitcrew_runtime.text.reading import Read, Reader

CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
MARKS = (CHANNEL, MESSAGE, "<|start|>", "<|end|>", "<|constrain|>", "<|call|>", "<|return|>")
_OF_HEADERS = (CHANNEL, "<|constrain|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_FUNCTION = re.compile(r"\bto=functions\.([A-Za-z0-9_.-]+)")


class _Part(Enum):
    HEADER = auto()
    REASONING = auto()
    TEXT = auto()
    CALL = auto()


class HarmonyMessages(Reader):
    """`marks` are the ids of the format's tokens, with their names.

    `offered`: functions may be called. Without, a call is reasoning.
    """

    def __init__(self, marks: Mapping[int, str], offered: bool, parallel: bool = True) -> None:
        self.called = False
        self.marks = marks.keys()
        self._names = marks
        self._offered = offered
        self._parallel = parallel
        self._part = _Part.HEADER
        self._header = ""
        self._is_marked = False
        self._begun: set[_Part] = set()
        self._calls = 0
        self._json = JsonText()

    def mark(self, token: int) -> Read:
        """See `Reader`."""
        name, self._is_marked = self._names[token], True
        if name == MESSAGE:
            return self._open()
        if name in _OF_HEADERS:
            self._header += name
        else:
            self._part, self._header = _Part.HEADER, ""
        return Read()

    def feed(self, text: str) -> Read:
        """See `Reader`."""
        if self._part is _Part.REASONING:
            return Read(reasoning=text)
        if self._part is _Part.TEXT:
            return Read(text)
        if self._part is _Part.CALL:
            return self._argue(text)
        self._header += text
        return Read()

    def flush(self) -> Read:
        """A text without any mark is an answer; a header that is cut off is nothing."""
        return Read() if self._is_marked else Read(self._header)

    def _open(self) -> Read:
        """The header is complete."""
        channel, function = _CHANNEL.search(self._header), _FUNCTION.search(self._header)
        if function is not None and self._offered and (self._parallel or not self._calls):
            self._part, self._json = _Part.CALL, JsonText()
            self._calls += 1
            return Read("", (CallPiece(self._calls - 1, "", new_id(), function[1]),))
        is_said = channel is None or channel[1] in ("final", "commentary")
        self._part = _Part.TEXT if is_said and "to=" not in self._header else _Part.REASONING
        between = "\n" if self._part in self._begun else ""
        self._begun.add(self._part)
        return Read(between) if self._part is _Part.TEXT else Read(reasoning=between)

    def _argue(self, text: str) -> Read:
        """Arguments as far as they are JSON; the rest is text."""
        for place, char in enumerate(text):
            if not self._json.push(char):
                self._part = _Part.TEXT
                return Read(text[place:], self._arguments(text[:place]))
        self.called |= self._json.depth == 0 and bool(text.strip())
        return Read("", self._arguments(text))

    def _arguments(self, text: str) -> tuple[CallPiece, ...]:
        return (CallPiece(self._calls - 1, text),) if text else ()
