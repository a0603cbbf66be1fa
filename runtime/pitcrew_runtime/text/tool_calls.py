"""Finds tool calls in an assistant's text while it comes.

Models write calls as they were trained to: between `<tool_call>` tags (Hermes, Qwen), or as the
whole message (Llama 3). A call that is forced is held to JSON and needs no marks. What looks like
a call and is none is text after all: nothing that the model said is lost.
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

_BLANK = " \t\n\r"


class CallFormat(StrEnum):
    """How a model writes calls when it chooses to make them."""

    HERMES = "hermes"
    LLAMA3_JSON = "llama3_json"


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of one call. Its first part has the id and the name; the arguments are JSON text."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """What became certain: text for the reader, and parts of calls."""

    text: str = ""
    calls: tuple[CallPiece, ...] = ()


@dataclass(frozen=True, slots=True)
class _Made:
    name: str
    arguments: str


class CallReader(Protocol):
    """Reads one message."""

    chosen: bool
    """Whether making the calls was the model's decision."""

    def feed(self, text: str) -> Read:
        """Add text."""
        ...

    def flush(self) -> Read:
        """The end of the text."""
        ...


def format_of(template: str) -> CallFormat | None:
    """The format that a chat template tells its model to use; None for one that is not known."""
    if "<tool_call>" in template:
        return CallFormat.HERMES
    if '"parameters"' in template and "<|python_tag|>" in template:
        return CallFormat.LLAMA3_JSON
    return None


class HermesCalls:
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`, any number of them among text.

    White space around the calls is layout and does not come out.
    """

    chosen = True
    _OPEN, _CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self, parallel: bool = True) -> None:
        self._parallel = parallel
        self._held = ""
        self._inside = False
        self._count = 0

    def feed(self, text: str) -> Read:
        """See `CallReader`."""
        self._held += text
        said: list[str] = []
        calls: list[CallPiece] = []
        while self._step(said, calls):
            pass
        return Read("".join(said), tuple(calls))

    def flush(self) -> Read:
        """A call without its closing tag counts where it is whole; models forget the tag."""
        held, inside = self._held, self._inside
        self._held, self._inside = "", False
        if not inside:
            return Read(held if held.strip() or not self._count else "")
        calls = self._calls(held)
        return Read(self._OPEN + held) if calls is None else Read("", calls)

    def _step(self, said: list[str], calls: list[CallPiece]) -> bool:
        """Move past the next tag; False where it has not come yet."""
        mark = self._CLOSE if self._inside else self._OPEN
        before, found, after = self._held.partition(mark)
        if not found:
            if not self._inside:
                keep = len(self._held[: _possible_start(self._held, mark)].rstrip())
                said.append(self._held[:keep])
                self._held = self._held[keep:]
            return False
        if not self._inside:
            said.append(before.rstrip())
        elif (made := self._calls(before)) is not None:
            calls += made
        else:
            said.append(self._OPEN + before + self._CLOSE)
        self._held, self._inside = after, not self._inside
        return True

    def _calls(self, source: str) -> tuple[CallPiece, ...] | None:
        """The calls between two tags, as many as may be made; None where these are none."""
        found = _parse(source)
        if found is None:
            return None
        if not self._parallel:
            found = [] if self._count else found[:1]
        made = tuple(_call(self._count + n, call) for n, call in enumerate(found))
        self._count += len(made)
        return made


class LlamaCalls:
    """A message that is nothing but `{"name": …, "parameters": …}`, or several with `;` between."""

    chosen = True

    def __init__(self, parallel: bool = True) -> None:
        self._parallel = parallel
        self._held = ""
        self._is_text = False

    def feed(self, text: str) -> Read:
        """Held back from a brace at the very start on."""
        if self._is_text:
            return Read(text)
        self._held += text
        start = self._held.lstrip()
        if not start or start[0] == "{":
            return Read()
        self._is_text = True
        return Read(self._held)

    def flush(self) -> Read:
        """See `CallReader`."""
        if self._is_text:
            return Read()
        found = _parse_several(self._held)
        if not found:
            return Read(self._held)
        made = found if self._parallel else found[:1]
        return Read("", tuple(_call(index, call) for index, call in enumerate(made)))


class OneCall:
    """The text is the arguments of a function that was chosen already."""

    chosen = False

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def feed(self, text: str) -> Read:
        """See `CallReader`."""
        if not text:
            return Read()
        if self._begun:
            return Read("", (CallPiece(0, text),))
        self._begun = True
        return Read("", (CallPiece(0, text, _new_id(), self._name),))

    def flush(self) -> Read:
        """See `CallReader`."""
        return Read()


class CallList:
    """The text is a JSON array of calls. Each comes out as soon as it is whole."""

    chosen = True

    def __init__(self) -> None:
        self._held = ""
        self._count = 0

    def feed(self, text: str) -> Read:
        """See `CallReader`."""
        self._held += text
        calls: list[CallPiece] = []
        while "}" in text and (made := self._next()) is not None:
            calls.append(_call(self._count, made))
            self._count += 1
        return Read("", tuple(calls))

    def flush(self) -> Read:
        """What was cut off (by max_tokens) is given back as text."""
        return Read("" if self._count and self._held.strip() == "]" else self._held)

    def _next(self) -> _Made | None:
        """The call that the text goes on with, taken out of it; None where it is not whole yet."""
        start = self._held.lstrip(_BLANK).removeprefix("," if self._count else "[").lstrip(_BLANK)
        try:
            document, end = json.JSONDecoder().raw_decode(start)
        except (ValueError, RecursionError):
            return None
        made = _made([document])
        if made is None:
            return None
        self._held = start[end:]
        return made[0]


def _call(index: int, made: _Made) -> CallPiece:
    return CallPiece(index, made.arguments, _new_id(), made.name)


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _parse(source: str) -> list[_Made] | None:
    """One call, or an array of them; None where the text is anything else."""
    try:
        document = json.loads(source)
    except (ValueError, RecursionError):
        return None
    return _made(document if isinstance(document, list) else [document])


def _parse_several(source: str) -> list[_Made] | None:
    """Calls after each other, with `;` or nothing between."""
    decoder, found, at = json.JSONDecoder(), [], 0
    try:
        while source[at:].strip(" \n;"):
            at += len(source[at:]) - len(source[at:].lstrip(" \n;"))
            document, at = decoder.raw_decode(source, at)
            found += document if isinstance(document, list) else [document]
    except (ValueError, RecursionError):
        return None
    return _made(found)


def _made(documents: Iterable[Any]) -> list[_Made] | None:
    calls = []
    for document in documents:
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            return None
        arguments = document.get("arguments", document.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        calls.append(_Made(document["name"], json.dumps(arguments, ensure_ascii=False)))
    return calls


def _possible_start(text: str, mark: str) -> int:
    """Where the longest tail begins that `mark` begins with."""
    for start in range(max(0, len(text) - len(mark) + 1), len(text)):
        if mark.startswith(text[start:]):
            return start
    return len(text)
