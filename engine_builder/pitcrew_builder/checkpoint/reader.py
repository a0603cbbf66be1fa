"""Weights as a stream of float32 chunks: memory is one chunk, whatever the tensor's size."""

from collections.abc import Iterator, Mapping
from io import FileIO
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.checkpoint.safetensors import AGAIN, TensorInfo
from pitcrew_builder.errors import CheckpointCorrupt

Floats: TypeAlias = npt.NDArray[np.float32]

CHUNK = 1 << 21
"""Elements converted at a time: 8 MiB as float32, so that a chunk stays near the caches."""

RAW_CHUNK = 1 << 23
"""Bytes copied at a time."""

READABLE: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""Types that weights may have, as NumPy reads their bytes."""


class WeightReader:
    """Reads tensors in chunks. Keeps one file open, as neighbours lie together."""

    def __init__(self) -> None:
        self._stream: FileIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def chunks(self, tensor: TensorInfo) -> Iterator[Floats]:
        """The elements in order, as float32; every chunk is an array of its own.

        Raises `CheckpointCorrupt` for a type that is no weight's, a short file, NaN or infinity.
        """
        stored = _stored(tensor)
        stream = self._open(tensor)
        stream.seek(tensor.offset)
        remaining = tensor.length // stored.itemsize
        while remaining:
            floats = _read(stream, tensor, stored, min(remaining, CHUNK))
            remaining -= floats.size
            yield floats

    def elements(self, tensor: TensorInfo, start: int, count: int) -> Floats:
        """`count` elements from the `start`-th, in storage order, as float32. Raises as `chunks`."""
        stored = _stored(tensor)
        stream = self._open(tensor)
        stream.seek(tensor.offset + start * stored.itemsize)
        return _read(stream, tensor, stored, count)

    def packed(self, tensor: TensorInfo, start: int, count: int) -> npt.NDArray[np.uint8]:
        """`count` bytes of a packed tensor from the `start`-th. Raises for a short file."""
        stream = self._open(tensor)
        stream.seek(tensor.offset + start)
        return _fill(stream, tensor, np.empty(count, dtype=np.uint8))

    def raw(self, tensor: TensorInfo) -> Iterator[memoryview]:
        """The bytes as they are stored, in chunks. Raises `CheckpointCorrupt` for a short file."""
        stream = self._open(tensor)
        stream.seek(tensor.offset)
        remaining = tensor.length
        while remaining:
            block = memoryview(bytearray(min(remaining, RAW_CHUNK)))
            if stream.readinto(block) != block.nbytes:
                raise _corrupt(tensor, "ends before its last byte")
            remaining -= block.nbytes
            yield block

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


def _read(stream: FileIO, tensor: TensorInfo, stored: np.dtype[Any], count: int) -> Floats:
    raw = _fill(stream, tensor, np.empty(count, dtype=stored))
    floats = _widen(raw, tensor.dtype)
    if not _all_finite(floats):
        raise _corrupt(tensor, "holds NaN or infinity")
    return floats


def _fill(stream: FileIO, tensor: TensorInfo, target: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Fill `target` from where the stream stands. One read may bring less than what is there."""
    room = target.data.cast("B")
    while room.nbytes:
        count = stream.readinto(room)
        if not count:
            raise _corrupt(tensor, "ends before its last byte")
        room = room[count:]
    return target


def _widen(raw: npt.NDArray[np.generic], dtype: str) -> Floats:
    if dtype != "BF16":
        return raw.astype(np.float32, copy=False)
    # bfloat16 is the upper half of a float32.
    wide = raw.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def _all_finite(floats: Floats) -> bool:
    # One pass without a temporary: a NaN or an infinity never leaves a sum. Large finite values
    # may overflow it, so a bad sum is only a suspicion.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(floats.sum())) or bool(np.isfinite(floats).all())


def _corrupt(tensor: TensorInfo, problem: str) -> CheckpointCorrupt:
    return CheckpointCorrupt(f"{tensor.file.name}: tensor '{tensor.name}' {problem}; {AGAIN}")
