"""Weights as a stream of float32 chunks: memory is one chunk, whatever the tensor's size."""

import os
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.checkpoint.safetensors import AGAIN, TensorInfo
from pitcrew_builder.errors import CheckpointCorrupt

Floats: TypeAlias = npt.NDArray[np.float32]

CHUNK = 1 << 21
"""Elements of a recipe that are made at a time: 8 MiB as float32."""

BLOCK = 1 << 19
"""Elements read at a time: with their float32 (2 MiB) they stay in the caches until they are used."""

READABLE: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""Types that weights may have, as NumPy reads their bytes."""

INFINITE = {"F16": 0x7C00, "BF16": 0x7F80}
"""The bits of infinity."""

SIGN = 0x8000
"""The sign's bit of a half."""


class WeightReader:
    """Reads tensors in blocks. Keeps one file open, as neighbours lie together.

    Its two buffers are its only memory, used again and again: a fresh page costs more than what is
    done with it here. One thread at a time.
    """

    def __init__(self) -> None:
        self._stream: FileIO | None = None
        self._bytes = np.empty(BLOCK * 4, np.uint8)
        self._floats = np.empty(BLOCK, np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def chunks(self, tensor: TensorInfo) -> Iterator[Floats]:
        """The elements in order, as float32; every chunk is valid until the next one is asked for.

        Raises `CheckpointCorrupt` for a type that is no weight's, a short file, NaN or infinity.
        """
        stored = _stored(tensor)
        count = tensor.length // stored.itemsize
        for start in range(0, count, BLOCK):
            floats = self._floats[: min(BLOCK, count - start)]
            self._read(tensor, stored, start, floats)
            yield floats

    def elements(self, tensor: TensorInfo, start: int, count: int) -> Floats:
        """`count` elements from the `start`-th, in storage order, as float32: an array of its own.

        Raises as `chunks`.
        """
        stored = _stored(tensor)
        floats = np.empty(count, np.float32)
        for first in range(0, count, BLOCK):
            self._read(tensor, stored, start + first, floats[first : first + BLOCK])
        return floats

    def packed(self, tensor: TensorInfo, start: int, count: int) -> npt.NDArray[np.uint8]:
        """`count` bytes of a packed tensor from the `start`-th. Raises for a short file."""
        content = np.empty(count, dtype=np.uint8)
        self._fill(tensor, start, content)
        return content

    def raw(self, tensor: TensorInfo) -> Iterator[memoryview]:
        """The bytes as they are stored; every block is valid until the next one is asked for.

        Raises `CheckpointCorrupt` for a short file.
        """
        for start in range(0, tensor.length, len(self._bytes)):
            block = self._bytes[: tensor.length - start]
            self._fill(tensor, start, block)
            yield block.data

    def halves(self, tensor: TensorInfo) -> Iterator[memoryview]:
        """The bytes of a tensor in half precision as they are stored; valid as those of `raw`.

        Raises `CheckpointCorrupt` for a short file, NaN or infinity.
        """
        for start in range(0, tensor.length, 2 * BLOCK):
            narrow = self._bytes[: min(2 * BLOCK, tensor.length - start)].view(np.uint16)
            self._fill(tensor, start, narrow)
            if not _all_finite_halves(narrow, INFINITE[tensor.dtype]):
                raise _corrupt(tensor, "holds NaN or infinity")
            yield narrow.view(np.uint8).data

    def _read(self, tensor: TensorInfo, stored: np.dtype[Any], start: int, floats: Floats) -> None:
        """Fill `floats`, a block or less, with the elements from the `start`-th."""
        if tensor.dtype == "F32":
            self._fill(tensor, start * stored.itemsize, floats)
        else:
            narrow = self._bytes[: floats.size * stored.itemsize].view(stored)
            self._fill(tensor, start * stored.itemsize, narrow)
            _widen(narrow, tensor.dtype, floats)
        if not _all_finite(floats):
            raise _corrupt(tensor, "holds NaN or infinity")

    def _fill(self, tensor: TensorInfo, start: int, target: npt.NDArray[Any]) -> None:
        """Fill `target` from byte `start` on. One read may bring less than what is there."""
        descriptor, place = self._open(tensor).fileno(), tensor.offset + start
        room = target.data.cast("B")
        while room.nbytes:
            count = os.preadv(descriptor, [room], place)
            if not count:
                raise _corrupt(tensor, "ends before its last byte")
            room, place = room[count:], place + count

    def _open(self, tensor: TensorInfo) -> FileIO:
        if self._stream is None or self._stream.name != str(tensor.file):
            self._close()
            self._stream = FileIO(str(tensor.file))
        return self._stream

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = None


def _stored(tensor: TensorInfo) -> np.dtype[Any]:
    stored = READABLE.get(tensor.dtype)
    if stored is None:
        raise _corrupt(tensor, f"has dtype {tensor.dtype}; weights are {', '.join(READABLE)}")
    return stored


def _widen(narrow: npt.NDArray[Any], dtype: str, floats: Floats) -> None:
    if dtype != "BF16":
        floats[:] = narrow
        return
    # bfloat16 is the upper half of a float32.
    bits = floats.view(np.uint32)
    bits[:] = narrow
    np.left_shift(bits, 16, out=bits)


def _all_finite(floats: Floats) -> bool:
    # One pass without a temporary: a NaN or an infinity never leaves a sum. Large finite values
    # may overflow it, so a bad sum is only a suspicion.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(floats.sum())) or bool(np.isfinite(floats).all())


def _all_finite_halves(bits: npt.NDArray[np.uint16], infinite: int) -> bool:
    # Of the positive numbers those that are not finite are the largest, and so they are of the
    # negative ones, which are above all others where the sign counts as a bit like any.
    negative = bits.max(initial=0) >= SIGN | infinite
    return not negative and bool(bits.view(np.int16).max(initial=0) < infinite)


def _corrupt(tensor: TensorInfo, problem: str) -> CheckpointCorrupt:
    return CheckpointCorrupt(f"{tensor.file.name}: tensor '{tensor.name}' {problem}; {AGAIN}")
