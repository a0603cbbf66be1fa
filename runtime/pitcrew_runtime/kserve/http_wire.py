"""The protocol's JSON bodies, and the binary tensors that may follow them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, Field
from starlette.responses import Response

from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.kserve.tensors import (
    BYTES,
    MAX_DIMENSIONS,
    MAX_TENSORS,
    Tensor,
    checked,
    from_raw,
    to_raw,
)
from pitcrew_runtime.server.bodies import validated
from pitcrew_runtime.server.fields import Body, Count

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Where a body has binary tensors: how long its JSON is."""

Parameters = Annotated[dict[str, Any], Field(default_factory=dict)]


class Input(Body):
    """A tensor; its values are here, or behind the JSON."""

    name: str
    datatype: str
    shape: Annotated[list[Count], Field(max_length=MAX_DIMENSIONS)]
    parameters: Parameters
    data: list[Any] | None = None


class Output(Body):
    """An output that is asked for."""

    name: str
    parameters: Parameters


class InferBody(Body):
    """`POST …/infer`, without the binary part."""

    id: str = ""
    parameters: Parameters
    inputs: Annotated[list[Input], Field(min_length=1, max_length=MAX_TENSORS)]
    outputs: Annotated[list[Output], Field(max_length=MAX_TENSORS, default_factory=list)]


class GenerateBody(Body):
    """`POST …/generate`: inputs by name, and parameters."""

    model_config = ConfigDict(extra="allow")

    id: str = ""
    text_input: str
    parameters: Parameters


def read_infer(raw: bytes, header_length: str | None) -> tuple[InferBody, list[Tensor]]:
    """The JSON part, and the tensors of both parts. Raises `InvalidRequest`."""
    at = len(raw) if header_length is None else _length(header_length, len(raw))
    body = validated(InferBody, raw[:at])
    tensors = []
    for one in body.inputs:
        size = one.parameters.get("binary_data_size")
        if size is None:
            values = _flat(one.data or [])
            tensors.append(checked(one.name, one.datatype, one.shape, values))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(raw) - at:
            raise InvalidRequest(
                f"{one.name}: binary_data_size {str(size)[:20]} is not in the body"
            )
        tensors.append(from_raw(one.name, one.datatype, one.shape, raw[at : at + size]))
        at += size
    return body, tensors


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) > most:
        raise InvalidRequest(f"{HEADER_LENGTH}: {text[:20]!r} is not in the body")
    return int(text)


def _flat(values: list[Any]) -> list[Any]:
    """Nested lists in row-major order; pydantic has bounded how deep they are."""
    return [
        element
        for value in values
        for element in (_flat(value) if isinstance(value, list) else [value])
    ]


def given(body: GenerateBody) -> list[Tensor]:
    """The inputs of `generate`. Raises `InvalidRequest`."""
    more = body.model_extra or {}
    if len(more) > MAX_TENSORS:
        raise InvalidRequest(
            f"{len(more)} inputs beside text_input; at most {MAX_TENSORS} are read"
        )
    text = Tensor("text_input", BYTES, (1,), [body.text_input])
    return [text, *(_named(name, value) for name, value in more.items())]


def _named(name: str, value: object) -> Tensor:
    """An input of `generate`."""
    if isinstance(value, bool):
        return Tensor(name, "BOOL", (1,), [value])
    if isinstance(value, dict):
        value = json.dumps(value)  # orjson refuses integers of more than 64 bits
    if isinstance(value, str):
        return Tensor(name, BYTES, (1,), [value])
    raise InvalidRequest(f"{name[:64]}: text or a boolean is needed", param=name[:64])


def binary(body: InferBody) -> frozenset[str] | bool:
    """The outputs that are wanted in binary form; True for all."""
    if not body.outputs:
        return bool(body.parameters.get("binary_data_output", False))
    return frozenset(one.name for one in body.outputs if one.parameters.get("binary_data"))


def tensors_response(
    head: dict[str, Any], tensors: Sequence[Tensor], raw: frozenset[str] | bool
) -> Response:
    """The answer to an infer request; `raw` are the outputs in binary form, True for all."""
    described, tail = [], b""
    for one in tensors:
        entry: dict[str, Any] = {
            "name": one.name,
            "datatype": one.datatype,
            "shape": list(one.shape),
        }
        if raw is True or (raw and one.name in raw):
            content = to_raw(one)
            entry["parameters"] = {"binary_data_size": len(content)}
            tail += content
        else:
            entry["data"] = list(one.values)
        described.append(entry)
    document = orjson.dumps({**head, "outputs": described})
    if not tail:
        return Response(document, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(document))}
    return Response(document + tail, headers=headers, media_type="application/octet-stream")


def plain(tensors: Sequence[Tensor]) -> dict[str, Any]:
    """Outputs by name; a single element stands for itself."""
    return {
        one.name: one.values[0] if len(one.values) == 1 else list(one.values) for one in tensors
    }


def event(document: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"
