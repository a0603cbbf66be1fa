"""Symmetric number grids: a matrix as narrow codes and the scales that give them meaning.

Matrices are [outputs, inputs], as checkpoints have them; a block is a run of neighbouring inputs
of one output that share a scale. Symmetric, because TensorRT refuses zero points: 0 is code 0.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.manifest import QuantizationRecipe
from pitcrew_builder.spec import WeightFormat

Floats: TypeAlias = npt.NDArray[np.float32]
Codes: TypeAlias = npt.NDArray[Any]
"""int8 for the integer grids, float8_e4m3fn for FP8."""

TYPES = {
    WeightFormat.FP8: ElementType.FLOAT8,
    WeightFormat.INT8: ElementType.INT8,
    WeightFormat.INT4: ElementType.INT4,
}
"""What codes of a format are."""

_LIMITS = {ElementType.INT4: 7.0, ElementType.INT8: 127.0, ElementType.FLOAT8: 448.0}
_TINY = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class Grid:
    """A type of codes and how many inputs share a scale."""

    type: ElementType
    block: int
    """Divides the inputs; equal to them where each output has one scale."""

    @property
    def limit(self) -> float:
        """The largest code."""
        return _LIMITS[self.type]

    @property
    def least(self) -> float:
        """The least code. Of so few as int4 has, the odd one at the low end is worth using."""
        return -8.0 if self.type is ElementType.INT4 else -self.limit

    def blocks(self, matrix: Floats) -> Floats:
        """[outputs, inputs] as [outputs, blocks, block]."""
        return matrix.reshape(len(matrix), -1, self.block)

    def scales(self, matrix: Floats) -> Floats:
        """[outputs, blocks]: the least scales that reach every element."""
        reach = np.abs(self.blocks(matrix)).max(axis=2)
        scales: Floats = np.maximum(reach / np.float32(self.limit), _TINY)
        return scales

    def nearest(self, scaled: Floats) -> Codes:
        """The nearest code of each number; what lies outside of the grid goes to its end."""
        inside = np.clip(scaled, self.least, self.limit)
        if self.type is ElementType.FLOAT8:
            return inside.astype(ml_dtypes.float8_e4m3fn)
        return np.rint(inside).astype(np.int8)

    def encode(self, matrix: Floats, scales: Floats) -> Codes:
        """The nearest codes [outputs, inputs]."""
        return self.nearest(self.blocks(matrix) / scales[:, :, None]).reshape(matrix.shape)

    def decode(self, codes: Codes, scales: Floats) -> Floats:
        """What the codes stand for, [outputs, inputs]."""
        values = self.blocks(codes.astype(np.float32)) * scales[:, :, None]
        decoded: Floats = values.reshape(codes.shape)
        return decoded

    def rounded(self, matrix: Floats, scales: Floats) -> Floats:
        """The matrix after a round trip."""
        return self.decode(self.encode(matrix, scales), scales)


def grid_for(recipe: QuantizationRecipe, inputs: int, *, head: bool = False) -> Grid | None:
    """int4 in blocks, the wider types with a scale for each output; None where no block fits, or
    weights stay as they are. `head` asks for the LM head's.
    """
    weights = recipe.head if head else recipe.weights
    if weights is None:
        return None
    kind = TYPES[weights]
    if kind is not ElementType.INT4:
        return Grid(kind, inputs)
    block = widest_block(inputs, recipe.block_size)
    return None if block is None else Grid(kind, block)


def widest_block(inputs: int, wanted: int) -> int | None:
    """The largest power of two, from `wanted` down to 16, that divides `inputs`; None without."""
    while wanted >= 16:
        if inputs % wanted == 0:
            return wanted
        wanted //= 2
    return None


def packed(codes: Codes, kind: ElementType) -> bytes:
    """The bytes of codes as ONNX stores them: int4 two in a byte, the first in the low half."""
    if kind is not ElementType.INT4:
        return np.ascontiguousarray(codes).tobytes()
    halves = np.ascontiguousarray(codes).reshape(-1).view(np.uint8) & 0xF
    if len(halves) % 2:
        halves = np.append(halves, np.uint8(0))
    return (halves[0::2] | halves[1::2] << 4).tobytes()
