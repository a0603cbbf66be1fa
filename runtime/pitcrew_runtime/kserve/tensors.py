"""The protocol's tensors: flat lists of values, and their raw form.

Raw values are little-endian and packed; an element of BYTES has its length, 4 bytes, before it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from pitcrew_runtime.errors import InvalidRequest

_FORMATS = {
    "BOOL": "?",
    "INT32": "i",
    "INT64": "q",
    "UINT32": "I",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}
BYTES = "BYTES"
MAX_TENSORS = 32
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 4096
"""Of a tensor: many more than one request may have texts."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`values` in row-major order; elements of BYTES are `str`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[Any]


def checked(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> Tensor:
    """A tensor of a request. Raises `InvalidRequest` where its parts do not fit together."""
    if datatype != BYTES and datatype not in _FORMATS:
        raise InvalidRequest(f"{name}: the datatype {datatype!r} is not served", param=name)
    if len(shape) > MAX_DIMENSIONS or len(values) > MAX_ELEMENTS:
        raise InvalidRequest(
            f"{name}: a tensor may have {MAX_DIMENSIONS} dimensions and {MAX_ELEMENTS} elements; "
            "send fewer at a time",
            param=name,
        )
    if any(size < 0 for size in shape) or prod(shape) != len(values):
        raise InvalidRequest(
            f"{name}: the shape {list(shape)} does not hold {len(values)} elements", param=name
        )
    found = [_text(name, value) for value in values]
    if not all(type(value) in _types(datatype) for value in found):
        raise InvalidRequest(f"{name}: an element is no {datatype}", param=name)
    return Tensor(name, datatype, tuple(shape), found)


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
    """A tensor of raw bytes. Raises `InvalidRequest`."""
    if datatype == BYTES:
        return checked(name, datatype, shape, _split(name, raw))
    form = _FORMATS.get(datatype, "B")
    size = struct.calcsize(f"<{form}")
    if len(raw) % size:
        raise InvalidRequest(f"{name}: {len(raw)} bytes are no {datatype} elements", param=name)
    return checked(name, datatype, shape, struct.unpack(f"<{len(raw) // size}{form}", raw))


def to_raw(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor."""
    if tensor.datatype == BYTES:
        encoded = [value.encode() for value in tensor.values]
        return b"".join(struct.pack("<I", len(one)) + one for one in encoded)
    return struct.pack(f"<{len(tensor.values)}{_FORMATS[tensor.datatype]}", *tensor.values)


def _types(datatype: str) -> tuple[type, ...]:
    if datatype == BYTES:
        return (str,)
    if datatype == "BOOL":
        return (bool,)
    return (int, float) if datatype.startswith("FP") else (int,)


def _split(name: str, raw: bytes) -> list[bytes]:
    """Elements with their lengths before them; a length beyond the end is a fault, not a read.

    Stops where there are too many.
    """
    found: list[bytes] = []
    at = 0
    while at < len(raw) and len(found) <= MAX_ELEMENTS:
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise InvalidRequest(f"{name}: an element is longer than the tensor", param=name)
        found.append(raw[at + 4 : end])
        at = end
    return found


def _text(name: str, value: Any) -> Any:  # noqa: ANN401 - any element
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name}: not UTF-8: {error.reason}", param=name) from None
