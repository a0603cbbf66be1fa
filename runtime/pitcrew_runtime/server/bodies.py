"""Reads a request's body, up to a size, into a model.

A model is checked in one piece that holds up everything else, at about a microsecond a value. So it
is not only bytes that are bounded: a body of 16 MiB may hold millions of values.
"""

import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest

from pitcrew_runtime.errors import BodyTooLarge, InvalidRequest
from pitcrew_runtime.server import problems

B = TypeVar("B", bound=BaseModel)

MAX_VALUES = 1 << 20
"""Of all kinds in one body: room for a prompt of a million token ids."""
MAX_MEMBERS = 1 << 17
"""Of objects, which cost more."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)
"""One that is cut off reaches to the end, so that no byte is looked at twice."""


async def read_body(http: HttpRequest, limit: int) -> bytes:
    """The request's body; raises `BodyTooLarge` as soon as it is known to be."""
    declared = http.headers.get("content-length", "0")
    raw = bytearray()
    if not declared.isdigit() or int(declared) <= limit:
        async for piece in http.stream():
            raw += piece
            if len(raw) > limit:
                break
        else:
            return bytes(raw)
    raise BodyTooLarge(f"the body may have {limit} bytes; shorten the prompt")


async def read_model(http: HttpRequest, model: type[B], limit: int) -> tuple[B, int]:
    """The body as a model, and its size in bytes. Raises `BodyTooLarge` or `InvalidRequest`."""
    raw = await read_body(http, limit)
    return validated(model, raw), len(raw)


def validated(model: type[B], raw: bytes) -> B:
    """JSON as a model; raises `InvalidRequest`."""
    if _has_too_many(raw) and _has_too_many(_STRING.sub(b"", raw)):
        raise InvalidRequest(
            f"the body has more than {MAX_VALUES} values or {MAX_MEMBERS} members of objects; send fewer at a time"
        )
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise problems.invalid_body(error) from None


def _has_too_many(raw: bytes) -> bool:
    """Counts in strings too, which may be full of commas and colons: only a No is certain."""
    return raw.count(b",") >= MAX_VALUES or raw.count(b":") > MAX_MEMBERS
