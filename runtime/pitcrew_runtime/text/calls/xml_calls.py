"""Calls as Qwen 3 Coder writes them, made JSON while they come.

    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>

Values stand as they are, without quotes or escapes, so what they mean follows from the function's
schema: text comes piece by piece, everything else once it is whole.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pitcrew_runtime.text.calls.piece import CallText, NewId, new_id
from pitcrew_runtime.text.calls.values import is_text, json_of
from pitcrew_runtime.text.json_text import BLANK
from pitcrew_runtime.text.stops import possible_start

Schema = Mapping[str, Any]
Schemas = Mapping[str, Schema]
"""Of the parameters of functions, by the functions' names."""
NO_SCHEMAS: Schemas = {}

_FUNCTION, _PARAMETER = "<function=", "<parameter="
_FUNCTION_END, _PARAMETER_END = "</function>", "</parameter>"
_NAME = re.compile(r"[^<>\n]{0,64}")
_QUOTED = {False: "", True: '"'}


class XmlCalls(CallText):
    """Calls one after the other. `schemas` tell what kind of values their parameters have."""

    def __init__(
        self, first: int = 0, name_call: NewId = new_id, schemas: Schemas = NO_SCHEMAS
    ) -> None:
        super().__init__(first, name_call)
        self._schemas = schemas
        self._take: Callable[[str], bool] = self._outside
        self._function = ""
        self._schema: Any = None
        """Of the parameter."""
        self._has_parameters = False
        self._streams = False
        """The value is text and told as it comes."""
        self._is_told = False
        """Something of the value was."""

    @property
    def complete(self) -> bool:
        """See `CallText`."""
        return bool(self.whole) and self._take == self._outside

    def push(self, char: str) -> bool:
        """See `CallText`."""
        return self._take(char)

    def _outside(self, char: str) -> bool:
        """Between functions."""
        name = self._opened(_FUNCTION, char)
        if name is None:
            return self._is_on(char, (_FUNCTION,))
        self._function, self._has_parameters, self.held = name, False, ""
        self._begin(name, "{")
        self._take = self._inside
        return True

    def _inside(self, char: str) -> bool:
        """A function, between its parameters."""
        name = self._opened(_PARAMETER, char)
        if name is not None:
            self._open_parameter(name)
        elif (self.held + char).strip(BLANK) == _FUNCTION_END:
            self._go_on("}")
            self.whole, self.held, self._take = self.whole + 1, "", self._outside
        else:
            return self._is_on(char, (_PARAMETER, _FUNCTION_END))
        return True

    def _value(self, char: str) -> bool:
        """Up to the closing tag; the line breaks next to the tags belong to them."""
        self.held += char
        if self.held.endswith(_PARAMETER_END):
            value = self.held.removesuffix(_PARAMETER_END).removesuffix("\n")
            self._tell(value if self._is_told else value.removeprefix("\n"), is_last=True)
            self.held, self._take = "", self._inside
        elif self._streams:
            self._tell_text()
        return True

    def _opened(self, tag: str, char: str) -> str | None:
        """The name in an opening tag that this character ends."""
        text = (self.held + char).lstrip(BLANK)
        if char != ">" or not text.startswith(tag):
            return None
        return text[len(tag) : -1].strip() or None

    def _is_on(self, char: str, tags: tuple[str, ...]) -> bool:
        """Whether one of the tags may still come, or its name."""
        text = (self.held + char).lstrip(BLANK)
        for tag in tags:
            is_named = text.startswith(tag) and tag.endswith("=")
            if tag.startswith(text) or (is_named and _NAME.fullmatch(text, len(tag))):
                self.held += char
                return True
        return False

    def _open_parameter(self, name: str) -> None:
        properties = self._schemas.get(self._function, {}).get("properties")
        self._schema = properties.get(name) if isinstance(properties, dict) else None
        self._streams, self._is_told = is_text(self._schema), False
        self._go_on(f"{', ' if self._has_parameters else ''}{json.dumps(name)}: ")
        self._go_on(_QUOTED[self._streams])
        self._has_parameters, self.held, self._take = True, "", self._value

    def _tell_text(self) -> None:
        """What is certainly a part of the value."""
        if not self._is_told:
            if self.held == "\n":
                return
            self.held = self.held.removeprefix("\n")
        sure = possible_start(self.held, ("\n" + _PARAMETER_END, _PARAMETER_END))
        if sure:
            self._tell(self.held[:sure])
            self.held, self._is_told = self.held[sure:], True

    def _tell(self, value: str, *, is_last: bool = False) -> None:
        if self._streams:
            text = json.dumps(value, ensure_ascii=False)[1:-1]
            self._go_on(text + _QUOTED[is_last])
        else:
            self._go_on(json_of(value, self._schema))
