"""The safetensors format, read with suspicion.

A file is an 8-byte little-endian header length, a JSON header, and one buffer. Every tensor must
lie inside the buffer with exactly the bytes that its type and shape need, and the tensors must
cover the buffer without holes or overlaps: that is the format's rule, and it makes a truncated or
patched file show itself before a byte of it is used.
"""

import json
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from pitcrew_builder.errors import CheckpointCorrupt

HEADER_LIMIT = 100_000_000
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element."""

AGAIN = "download this file again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor's bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    """Bytes from the start of the file."""
    length: int
    """Bytes."""


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a file by name. Raises `CheckpointCorrupt` where the header is not sound."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(HEADER_LIMIT, size - 8):
            _refuse(file, f"its header says {length} bytes and the file has {size}: it is cut off")
        header = _parse(stream.read(length), file)
    start = 8 + length
    tensors = {
        name: _tensor(name, entry, file, start, size - start)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    _check_coverage(file, list(tensors.values()), start, size)
    return tensors


def _parse(text: bytes, file: Path) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=lambda pairs: _distinct(pairs, file))
    except (ValueError, RecursionError) as error:
        _refuse(file, f"its header is not JSON ({error})")
    if not isinstance(header, dict):
        _refuse(file, "its header is not a JSON object")
    return header


def _distinct(pairs: list[tuple[str, Any]], file: Path) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        _refuse(file, "its header names a tensor twice")
    return document


def _tensor(name: str, entry: Any, file: Path, start: int, room: int) -> TensorInfo:  # noqa: ANN401
    where = f"tensor '{name[:200]}'"
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        _refuse(file, f"{where} lacks dtype, shape or data_offsets")
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        _refuse(file, f"{where} has the unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or not all(_is_count(item) for item in shape):
        _refuse(file, f"{where} has the shape {str(shape)[:80]}, not a list of counts")
    if not (_is_count(begin) and _is_count(end) and begin <= end <= room):
        _refuse(file, f"{where} lies at {begin}..{end} of a buffer of {room} bytes: it is cut off")
    needed = math.prod(shape) * WIDTHS[dtype]
    if end - begin != needed:
        _refuse(file, f"{where} ({dtype} {shape}) needs {needed} bytes and has {end - begin}")
    return TensorInfo(name, dtype, tuple(shape), file, start + begin, needed)


def _check_coverage(file: Path, tensors: list[TensorInfo], start: int, size: int) -> None:
    ordered = sorted(tensors, key=lambda item: (item.offset, item.length))
    for before, after in pairwise(ordered):
        if after.offset < before.offset + before.length:
            _refuse(file, f"tensors '{before.name}' and '{after.name}' overlap")
    covered = sum(item.length for item in ordered)
    if covered != size - start:
        _refuse(file, f"its tensors cover {covered} of {size - start} bytes of data")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _refuse(file: Path, problem: str) -> NoReturn:
    raise CheckpointCorrupt(f"{file.name}: {problem}; {AGAIN}")
