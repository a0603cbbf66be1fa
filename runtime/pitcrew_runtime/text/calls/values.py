"""What a value that a model wrote without quotes means, by the JSON schema of its place."""

import json
import math
from collections.abc import Iterator
from typing import Any

_KINDS: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}


def is_text(schema: object) -> bool:
    """Whether whatever is written is text. So it is where nothing is known of the place."""
    return not isinstance(schema, dict) or set(_kinds(schema)) == {"string"}


def json_of(written: str, schema: dict[str, Any]) -> str:
    """The value as JSON; as text where it is none of what the schema allows."""
    kinds = set(_kinds(schema))
    bare = written.strip()
    for text in (bare, _as_json(bare)):
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            continue
        kind = _KINDS[type(value)]
        if not kinds or _fits(kind, value, kinds):
            return text
    return json.dumps(written, ensure_ascii=False)


def _kinds(schema: dict[str, Any]) -> Iterator[str]:
    """The types that a schema names, itself or in its choices. What is no schema names none."""
    named = schema.get("type")
    kinds = [named] if isinstance(named, str) else _list(named)
    yield from (kind for kind in kinds if isinstance(kind, str))
    if named is None:
        values = [schema["const"]] if "const" in schema else _list(schema.get("enum"))
        yield from (_KINDS[type(value)] for value in values)
    for choice in (*_list(schema.get("anyOf")), *_list(schema.get("oneOf"))):
        if isinstance(choice, dict):
            yield from _kinds(choice)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _fits(kind: str, value: object, kinds: set[str]) -> bool:
    """Whether a value is meant. Where text is allowed too, a number may be text; so it is."""
    if "string" in kinds:
        return kind in kinds - {"integer", "number"}
    if kind == "integer":
        return bool(kinds & {"integer", "number"})
    if isinstance(value, float):
        return "number" in kinds or ("integer" in kinds and value == math.floor(value))
    return kind in kinds


def _as_json(bare: str) -> str:
    """Python's words, which models write too."""
    return {"true": "true", "false": "false", "none": "null", "null": "null"}.get(
        bare.lower(), bare
    )


def _refuse(constant: str) -> None:
    raise ValueError(constant)
