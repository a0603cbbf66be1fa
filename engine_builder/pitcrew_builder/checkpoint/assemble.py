"""Reading recipes: any range of a weight's rows, made of as few bytes of the checkpoint as it needs."""

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.checkpoint.coded import Coded
from pitcrew_builder.checkpoint.reader import CHUNK, WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.checkpoint.unpack import Unpacker
from pitcrew_builder.graph.recipe import (
    Columns,
    Entry,
    LowRank,
    Mxfp4,
    PackedFloats,
    PackedIntegers,
    Plus,
    Rows,
    Source,
    TensorRef,
    Transposed,
    reads_whole,
)

Floats: TypeAlias = npt.NDArray[np.float32]

MXFP4_VALUES = np.array(
    [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32
)
"""What the 16 codes of a 4-bit float (E2M1) stand for."""

_SCALE_BIAS = 127


class Assembler:
    """Reads recipes over the tensors of one checkpoint."""

    def __init__(self, tensors: Mapping[str, TensorInfo], reader: WeightReader) -> None:
        self._tensors = tensors
        self._reader = reader
        self._unpacker = Unpacker(tensors, reader)

    def stream(self, source: Source) -> Iterator[Floats]:
        """The elements of `source` in order, as arrays of a chunk's size or less.

        Raises `CheckpointCorrupt` for a short file, NaN or infinity.
        """
        if isinstance(source, TensorRef):
            yield from self._reader.chunks(self._tensors[source.name])
            return
        for start, stop in _spans(source):
            yield np.ascontiguousarray(self.rows(source, start, stop))

    def rows(self, source: Source, start: int, stop: int) -> Floats:
        """Rows `start` to `stop` of `source`, as float32 in its shape."""
        match source:
            case TensorRef():
                return self._range(source, start, stop, source.shape[1:])
            case Entry(whole, index):
                first = index * math.prod(source.shape[:1])
                return self._range(whole, first + start, first + stop, source.shape[1:])
            case Rows(inner, first, _, step):
                last = first + (stop - 1) * step + 1
                return self.rows(inner, first + start * step, last)[::step]
            case Columns(inner, left, right, step):
                return self.rows(inner, start, stop)[:, left:right:step]
            case Transposed(inner):
                return self.rows(inner, 0, inner.shape[0]).T[start:stop]
            case Plus(inner, amount):
                return self.rows(inner, start, stop) + np.float32(amount)
            case LowRank():
                return self._low_rank(source, start, stop)
            case Mxfp4():
                return self._mxfp4(source, start, stop)
            case PackedIntegers() | PackedFloats():
                return self.coded(source).part(slice(start, stop), slice(None)).decoded()

    def coded(self, source: Source) -> Coded:
        """The codes of a packed matrix, or of a part of one. Raises `CheckpointCorrupt`."""
        match source:
            case PackedIntegers() | PackedFloats():
                return self._unpacker.read(source)
            case Rows(inner, start, stop, 1):
                return self.coded(inner).part(slice(start, stop), slice(None))
            case Columns(inner, start, stop, 1):
                return self.coded(inner).part(slice(None), slice(start, stop))
            case _:
                raise AssertionError(f"no part of a packed matrix: {source}")

    def _range(self, ref: TensorRef, start: int, stop: int, row: tuple[int, ...]) -> Floats:
        """Rows of a tensor that is seen as one long column of rows of shape `row`."""
        width = math.prod(row)
        tensor = self._tensors[ref.name]
        flat = self._reader.elements(tensor, start * width, (stop - start) * width)
        return flat.reshape(stop - start, *row)

    def _low_rank(self, source: LowRank, start: int, stop: int) -> Floats:
        up = self.rows(source.up, start, stop)
        down = self.rows(source.down, 0, source.down.shape[0])
        merged: Floats = self.rows(source.source, start, stop)
        return merged + np.float32(source.scale) * (up @ down)

    def _mxfp4(self, source: Mxfp4, start: int, stop: int) -> Floats:
        _, rows, groups, half = source.blocks.shape
        first, count = (source.index * rows + start) * groups, (stop - start) * groups
        packed = self._bytes(source.blocks, first * half, count * half).reshape(count, half)
        scales = self._bytes(source.scales, first, count).astype(np.int32) - _SCALE_BIAS
        numbers = np.empty((count, half, 2), dtype=np.float32)
        numbers[..., 0], numbers[..., 1] = MXFP4_VALUES[packed & 15], MXFP4_VALUES[packed >> 4]
        decoded = np.ldexp(numbers, scales[:, None, None])
        return decoded.reshape(stop - start, -1)

    def _bytes(self, ref: TensorRef, start: int, count: int) -> npt.NDArray[np.uint8]:
        return self._reader.packed(self._tensors[ref.name], start, count)


def _spans(source: Source) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about a chunk's size."""
    rows = source.shape[0]
    step = rows if reads_whole(source) else max(1, CHUNK // _read_for_a_row(source))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _read_for_a_row(source: Source) -> int:
    """Elements that one row costs; more than it holds where a part of them is thrown away."""
    match source:
        case Columns(inner):
            return _read_for_a_row(inner)
        case Rows(inner, _, _, step):
            return step * _read_for_a_row(inner)
        case _:
            return math.prod(source.shape[1:])
