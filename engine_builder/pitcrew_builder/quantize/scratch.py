"""Computed tensors on disk: what quantization makes lies here until the engine's file is written.

Memory holds one matrix at a time; the graph's recipes then point here as they point to checkpoints.
"""

from pathlib import Path
from typing import Any, Self

import numpy.typing as npt

from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.graph.ir import ElementType, Value, Weight
from pitcrew_builder.graph.recipe import TensorRef

_TAGS = {
    ElementType.FLOAT32: "F32",
    ElementType.FLOAT8: "F8_E4M3",
    ElementType.INT8: "I8",
    ElementType.INT4: "I4",
}


class Scratch:
    """One growing file of tensors."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream = file.open("wb")
        self.tensors: dict[str, TensorInfo] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def floats(self, name: str, array: npt.NDArray[Any]) -> Weight:
        """Keep a float32 array and return the constant that it makes."""
        return self.raw(name, ElementType.FLOAT32, array.shape, array.astype("<f4").tobytes())

    def raw(self, name: str, kind: ElementType, shape: tuple[int, ...], content: bytes) -> Weight:
        """Keep bytes that are encoded already and return the constant that they make."""
        offset = self._stream.tell()
        self._stream.write(content)
        self._stream.flush()
        info = TensorInfo(name, _TAGS[kind], shape, self._file, offset, len(content))
        self.tensors[name] = info
        return Weight(Value(name), (TensorRef(name, shape),), type=kind)
