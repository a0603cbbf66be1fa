"""From the tools of a request to a constraint on the text and a reader of it."""

from collections.abc import Sequence
from typing import Any

from pitcrew_runtime.constraints.constraint import Constraint
from pitcrew_runtime.server.constraint_fields import json_constraint
from pitcrew_runtime.server.messages import Tool, ToolChoice
from pitcrew_runtime.text.calls.formats import id_maker, reader_of
from pitcrew_runtime.text.calls.message import MessageCalls, OneCall
from pitcrew_runtime.text.manner import Manner
from pitcrew_runtime.text.reading import Reader

_FIELD = "tools"


def forced_call(
    tools: Sequence[Tool], choice: ToolChoice | None, parallel: bool
) -> Constraint | None:
    """Holds the text to the arguments of the chosen function, or to a list of calls."""
    if choice in (None, "none", "auto"):
        return None
    if choice == "required":
        return json_constraint(_list_of_calls(tools, parallel), _FIELD)
    chosen = next(tool.function for tool in tools if _is(tool, choice))
    return json_constraint(_parameters(chosen.parameters), _FIELD)


def call_reader(
    tools: Sequence[Tool], choice: ToolChoice | None, parallel: bool, manner: Manner
) -> Reader:
    """Finds the calls in the text, where there are any to find."""
    if not tools or choice == "none":
        return Reader()
    if choice == "required":
        return MessageCalls(name_call=id_maker(manner.calls))
    if choice is not None and choice != "auto":
        return OneCall(choice.function.name, id_maker(manner.calls))
    if manner.calls is None:
        return Reader()
    schemas = {tool.function.name: tool.function.parameters or {} for tool in tools}
    return reader_of(manner.calls, parallel, manner.marks, schemas)


def _is(tool: Tool, choice: ToolChoice | None) -> bool:
    return not isinstance(choice, str | None) and tool.function.name == choice.function.name


def _list_of_calls(tools: Sequence[Tool], parallel: bool) -> dict[str, Any]:
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "parameters": _parameters(tool.function.parameters),
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    bound = {} if parallel else {"maxItems": 1}
    return {"type": "array", "minItems": 1, "items": {"anyOf": calls}, **bound}


def _parameters(schema: dict[str, Any] | None) -> dict[str, Any]:
    return schema or {"type": "object", "properties": {}, "additionalProperties": False}
