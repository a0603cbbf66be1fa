"""A call as Mistral's later models write it: `name[ARGS]{…}`, perhaps with `[CALL_ID]…` between."""

import re

from pitcrew_runtime.text.calls.piece import CallText, NewId, new_id
from pitcrew_runtime.text.json_text import BLANK, JsonText

_HEADER = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*", re.ASCII)
_OF_HEADERS = re.compile(r"[\w.\-\[\]\s]", re.ASCII)
_LONGEST_HEADER = 256


class NamedCall(CallText):
    """One call. The id that the model gives it is not told: clients are told one of ours."""

    def __init__(self, first: int = 0, name_call: NewId = new_id) -> None:
        super().__init__(first, name_call)
        self._arguments: JsonText | None = None

    @property
    def complete(self) -> bool:
        """See `CallText`."""
        return bool(self.whole)

    def push(self, char: str) -> bool:
        """See `CallText`."""
        if self._arguments is None:
            return self._open(char) if char == "{" else self._read_header(char)
        if self.complete:
            self.held += char if char in BLANK else ""
            return char in BLANK
        if not self._arguments.push(char):
            return False
        self._go_on(char)
        self.whole = int(self._arguments.depth == 0)
        return True

    def _read_header(self, char: str) -> bool:
        if not _OF_HEADERS.match(char) or len(self.held) >= _LONGEST_HEADER:
            return False
        self.held += char
        return True

    def _open(self, char: str) -> bool:
        header = _HEADER.fullmatch(self.held)
        if header is None:
            return False
        self._arguments, self.held = JsonText(), ""
        self._begin(header[1], char)
        return self._arguments.push(char)
