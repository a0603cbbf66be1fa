"""Calls of functions as JSON, read while they come.

A call is an object with a `name` and an object of `arguments` (or `parameters`), in any order and
with anything beside them.
"""

import json

from pitcrew_runtime.text.calls.piece import CallPiece, CallText, NewId, new_id
from pitcrew_runtime.text.json_text import BLANK, JsonText

_ARGUMENTS = ("arguments", "parameters")


class JsonCalls(CallText):
    """Calls alone or in arrays, one after the other, with `;` or nothing between."""

    def __init__(self, first: int = 0, name_call: NewId = new_id) -> None:
        super().__init__(first, name_call)
        self._call: _Call | None = None
        self._in_array = False
        self._expected = "[{"

    @property
    def complete(self) -> bool:
        """See `CallText`."""
        return bool(self.whole) and self._call is None and not self._in_array

    def push(self, char: str) -> bool:
        """See `CallText`."""
        if self._call is None:
            return self._between(char)
        if not self._call.push(char):
            self._flush(self._call)
            return False
        self._follow(self._call, char)
        return True

    def take(self) -> tuple[CallPiece, ...]:
        """See `CallText`."""
        if self._call is not None:
            self._flush(self._call)
        return super().take()

    def _between(self, char: str) -> bool:
        if char not in BLANK and char not in self._expected:
            return False
        self.held += char
        if char == "{":
            self._call = _Call()
            self._call.push(char)
        elif char in "[,":
            self._in_array, self._expected = True, "{"
        elif char == "]":
            self._in_array, self._expected, self.held = False, ";[{", ""
        elif char == ";":
            self._expected = ";[{"
        return True

    def _follow(self, call: "_Call", char: str) -> None:
        """Whether the character just taken is certain, or the last of its call."""
        self.held = "" if call.is_certain else self.held + char
        if call.is_closed:
            self._flush(call)
            self._call = None
            self._expected = ",]" if self._in_array else ";[{"

    def _flush(self, call: "_Call") -> None:
        if call.name is None or not call.ready:
            return
        if call.is_told:
            self._go_on(call.ready)
        else:
            self._begin(call.name, call.ready)
            call.is_told = True
        call.ready = ""
        self.whole += call.is_whole


class _Call:
    """One object. Knows its members as they are completed."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.ready = ""
        """Arguments that have not been told."""
        self.is_told = False
        self.is_whole = False
        """The arguments are."""
        self.is_certain = False
        """What the last character was: a part of a certain call."""
        self.is_closed = False
        self._json = JsonText()
        self._key: str | None = None
        self._raw = ""
        """Of the key or the value that is being read."""
        self._has_arguments = self._in_arguments = False

    def push(self, char: str) -> bool:
        """See `CallText`."""
        before = self._json.depth
        if not self._json.push(char):
            return False
        self.is_certain = False
        if self._in_arguments:
            self._argue(char)
            return True
        if self._json.in_string or char not in "{:,}" or max(before, self._json.depth) > 1:
            self._read(char)
            return True
        return self._divide(char)

    def _argue(self, char: str) -> None:
        self.ready += char
        self._in_arguments = self._json.depth > 1
        self.is_whole = not self._in_arguments
        self.is_certain = self.name is not None

    def _read(self, char: str) -> None:
        """A character of a key or a value."""
        begins = char == "{" and self._json.depth == 2 and not self._raw.strip(BLANK)
        if begins and self._key in _ARGUMENTS and not self._has_arguments:
            self._has_arguments = self._in_arguments = True
            self._argue(char)
        else:
            self._raw += char

    def _divide(self, char: str) -> bool:
        """A character between keys and values; False where the member before it is none of a call's."""
        raw, self._raw = self._raw.strip(BLANK), ""
        if char == ":":
            self._key = json.loads(raw)
            return True
        if self._key is not None and not self._learn(raw):
            return False
        self._key = None
        self.is_closed = self._json.depth == 0
        return self._close() if self.is_closed else True

    def _learn(self, raw: str) -> bool:
        """The member that has come."""
        if self._key == "name" and self.name is None:
            name = json.loads(raw) if raw.startswith('"') else None
            self.name = name or None
            self.is_certain = self._has_arguments and self.name is not None
            return self.name is not None
        return self._has_arguments or self._key not in _ARGUMENTS

    def _close(self) -> bool:
        if self.name is None:
            return False
        if not self._has_arguments:
            self.ready, self.is_whole = "{}", True
        self.is_certain = True
        return True
