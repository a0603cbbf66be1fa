"""Writing constants to the graph's data file: placed first, then streamed, hashed on the way."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pitcrew_builder.checkpoint.assemble import Assembler
from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.graph.ir import Array, Graph, Literal, Value, Weight
from pitcrew_builder.graph.proto import Extent, is_inline
from pitcrew_builder.graph.recipe import TensorRef
from pitcrew_builder.manifest import FileEntry

ALIGNMENT = 4096
"""Bytes. A runtime maps tensors of the file straight into memory, by pages."""


def place(graph: Graph) -> dict[Value, Extent]:
    """Give every constant that is not inline its place in the data file, in graph order."""
    extents: dict[Value, Extent] = {}
    offset = 0
    for item in _stored(graph):
        length = item.nbytes if isinstance(item, Weight) else item.array.nbytes
        extents[item.name] = Extent(offset, length)
        offset += length + -(offset + length) % ALIGNMENT
    return extents


def size(extents: Mapping[Value, Extent]) -> int:
    """Bytes of the data file."""
    return max((extent.offset + extent.length for extent in extents.values()), default=0)


def write_data(
    path: Path,
    entry_path: str,
    graph: Graph,
    extents: Mapping[Value, Extent],
    tensors: Mapping[str, TensorInfo],
    on_bytes: Callable[[int], None],
) -> FileEntry:
    """Stream all constants to `path`, make them durable, and return the file's manifest entry.

    While a block is written, the next one is read and widened and this one is hashed: all three
    leave Python for the time that they take, so two cores work where one would.
    """
    digest, written = hashlib.sha256(), 0
    with (
        path.open("wb", buffering=0) as out,
        WeightReader() as reader,
        ThreadPoolExecutor(max_workers=2) as pool,
    ):
        for block in _ahead(_stream(graph, extents, tensors, reader), pool):
            hashed = pool.submit(digest.update, block)
            _write_all(out.fileno(), block)
            hashed.result()
            written += block.nbytes
            on_bytes(block.nbytes)
        os.fsync(out.fileno())
    return FileEntry(path=entry_path, size=written, sha256=digest.hexdigest())


def _ahead(blocks: Iterator[memoryview], pool: ThreadPoolExecutor) -> Iterator[memoryview]:
    """The same blocks, each made while its predecessor is used."""
    pending = pool.submit(next, blocks, None)
    while (block := pending.result()) is not None:
        pending = pool.submit(next, blocks, None)
        yield block


def _stream(
    graph: Graph,
    extents: Mapping[Value, Extent],
    tensors: Mapping[str, TensorInfo],
    reader: WeightReader,
) -> Iterator[memoryview]:
    """The data file from its first byte to its last, gaps included."""
    position = 0
    for item in _stored(graph):
        extent = extents[item.name]
        if extent.offset > position:
            yield memoryview(bytes(extent.offset - position))
        yield from blocks(item, tensors, reader)
        position = extent.offset + extent.length


def _stored(graph: Graph) -> Iterator[Weight | Literal]:
    yield from graph.weights
    yield from (literal for literal in graph.literals if not is_inline(literal))


def blocks(
    item: Weight | Literal, tensors: Mapping[str, TensorInfo], reader: WeightReader
) -> Iterator[memoryview]:
    """The bytes of one constant, chunk by chunk, as they stand in a data file."""
    if isinstance(item, Literal):
        yield memoryview(item.array.tobytes())
        return
    assembler = Assembler(tensors, reader)
    for part in item.parts:
        if isinstance(part, TensorRef) and item.type.is_encoded:
            yield from reader.raw(tensors[part.name])
            continue
        for chunk in assembler.stream(part):
            yield _stored_as(item, chunk).reshape(-1).view(np.uint8).data


def _stored_as(weight: Weight, chunk: Array) -> Array:
    """The chunk in the weight's own type. Raises `InvalidSpec` where that type is too narrow."""
    if chunk.dtype == weight.type.dtype:
        return chunk
    with np.errstate(over="ignore"):
        narrow = chunk.astype(weight.type.dtype)
    if not np.isfinite(narrow).all():
        raise InvalidSpec(
            f"precision: weight '{weight.name}' holds {np.abs(chunk).max():.3g}, more than "
            f"{weight.type} can; choose bf16 or fp32"
        )
    return narrow


def _write_all(descriptor: int, block: memoryview) -> None:
    while block.nbytes:
        block = block[os.write(descriptor, block) :]
