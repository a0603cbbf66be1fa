"""Reads a request's body, up to a size, into a model."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest

from pitcrew_runtime.errors import BodyTooLarge
from pitcrew_runtime.server import problems

B = TypeVar("B", bound=BaseModel)


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
    try:
        return model.model_validate_json(raw), len(raw)
    except ValidationError as error:
        raise problems.invalid_body(error) from None
