"""Unpacking matrices that others quantized: from the bytes of their formats to `Coded`, exactly.

Formats after their writers' own sources: AutoAWQ (GEMM), AutoGPTQ and GPTQModel, compressed-tensors
(`pack-quantized`, `float-quantized`), transformers' `fp8` with tiles, and ModelOpt.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pitcrew_builder.checkpoint.coded import Coded, Floats, Indices
from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import AGAIN, TensorInfo
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.graph.recipe import (
    Packed,
    PackedFloats,
    PackedIntegers,
    Packing,
    TensorRef,
)

Bytes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint32]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output whose code stands in the first, second ... four bits of a word."""

_TYPES = {4: ElementType.INT4, 8: ElementType.INT8}


class Unpacker:
    """Reads packed matrices of one checkpoint, each whole."""

    def __init__(self, tensors: Mapping[str, TensorInfo], reader: WeightReader) -> None:
        self._tensors = tensors
        self._reader = reader

    def read(self, source: Packed) -> Coded:
        """The matrix. Raises `CheckpointCorrupt` for a short file, NaN, or groups out of range."""
        if isinstance(source, PackedFloats):
            return self._floats(source)
        return self._integers(source)

    def _integers(self, source: PackedIntegers) -> Coded:
        outputs, _ = source.shape
        middle = 1 << (source.bits - 1)
        words = self._words(source.codes)
        codes = _codes(words, source.packing, source.bits)[:outputs, : source.shape[1]]
        scales = self._numbers(source.scales)
        if source.packing is not Packing.COMPRESSED:
            scales = np.ascontiguousarray(scales.T)
        zeros = self._zeros(source, outputs)
        return Coded(
            type=_TYPES[source.bits],
            # Modulo 256, so that 0 to 255 becomes -128 to 127 too.
            codes=(codes - np.uint8(middle)).view(np.int8),
            scales=scales,
            groups=self._groups(source, scales.shape[1]),
            zeros=None if zeros is None or not zeros.any() else zeros,
        )

    def _zeros(self, source: PackedIntegers, outputs: int) -> Floats | None:
        """[outputs, groups], with the middle code as 0."""
        if source.zeros is None:
            return None
        words, mask = self._words(source.zeros), (1 << source.bits) - 1
        if source.packing is Packing.COMPRESSED:
            found = _spread(words, source.bits, axis=0)[:outputs]
        else:
            found = _spread(words, source.bits, axis=1).T[:outputs]
        if source.packing is Packing.AWQ:
            found = _in_awq_order(found.T).T
        if source.packing is Packing.GPTQ:
            found = (found + np.uint8(1)) & np.uint8(mask)
        return found.astype(np.float32) - np.float32(1 << (source.bits - 1))

    def _groups(self, source: PackedIntegers, count: int) -> Indices:
        inputs = source.shape[1]
        if source.groups is None:
            return np.arange(inputs) // -(-inputs // count)
        groups = self._indices(source.groups)
        if groups.min() < 0 or groups.max() >= count:
            raise CheckpointCorrupt(
                f"tensor '{source.groups.name}' names group {groups.max()} of {count}; {AGAIN}"
            )
        return groups

    def _floats(self, source: PackedFloats) -> Coded:
        outputs, inputs = source.shape
        info = self._tensors[source.codes.name]
        raw = self._reader.packed(info, 0, info.length)
        codes = raw.view(ml_dtypes.float8_e4m3fn).reshape(outputs, inputs)
        if (raw & 0x7F == 0x7F).any():
            raise CheckpointCorrupt(f"tensor '{info.name}' holds NaN; {AGAIN}")
        scales, groups = self._numbers(source.scales), np.zeros(inputs, np.int64)
        if source.block is None:
            scales = np.broadcast_to(scales.reshape(-1, 1), (outputs, 1))
        else:
            rows, columns = source.block
            scales = scales.reshape(-(-outputs // rows), -(-inputs // columns))
            scales, groups = scales.repeat(rows, axis=0)[:outputs], np.arange(inputs) // columns
        given = source.input_scale
        return Coded(
            ElementType.FLOAT8,
            codes,
            np.ascontiguousarray(scales),
            groups,
            input_scale=None if given is None else float(self._numbers(given).max()),
        )

    def _words(self, ref: TensorRef) -> Words:
        info = self._tensors[ref.name]
        return self._reader.packed(info, 0, info.length).view("<u4").reshape(info.shape)

    def _indices(self, ref: TensorRef) -> Indices:
        info = self._tensors[ref.name]
        stored = "<i8" if info.dtype == "I64" else "<i4"
        return self._reader.packed(info, 0, info.length).view(stored).astype(np.int64)

    def _numbers(self, ref: TensorRef) -> Floats:
        info = self._tensors[ref.name]
        count = int(np.prod(info.shape, dtype=np.int64))
        return self._reader.elements(info, 0, count).reshape(info.shape)


def _codes(words: Words, packing: Packing, bits: int) -> Bytes:
    """[outputs, inputs], from 0 to the largest code."""
    match packing:
        case Packing.AWQ:
            return np.ascontiguousarray(_in_awq_order(_spread(words, bits, axis=1)).T)
        case Packing.GPTQ | Packing.GPTQ_V2:
            return np.ascontiguousarray(_spread(words, bits, axis=0).T)
        case Packing.COMPRESSED:
            return _spread(words, bits, axis=1)


def _spread(words: Words, bits: int, axis: int) -> Bytes:
    """Every word of [a, b] as its codes along `axis`, lowest bits first."""
    count, mask = 32 // bits, np.uint32((1 << bits) - 1)
    shape = list(words.shape)
    shape[axis] *= count
    spread = np.empty(shape, np.uint8)
    for position in range(count):
        place: list[Any] = [slice(None), slice(None)]
        place[axis] = slice(position, None, count)
        spread[tuple(place)] = (words >> np.uint32(bits * position)) & mask
    return spread


def _in_awq_order(spread: Bytes) -> Bytes:
    """Columns as they stand in the words, put in the order of the outputs."""
    words = spread.reshape(len(spread), -1, len(AWQ_ORDER))
    return words[:, :, np.argsort(AWQ_ORDER)].reshape(spread.shape)
