"""The ways to codes, behind one face: a matrix comes in runs of rows, codes and scales go out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.manifest import QuantizationRecipe
from pitcrew_builder.quantize import awq, gptq
from pitcrew_builder.quantize.grid import Codes, Floats, Grid, widest_block
from pitcrew_builder.quantize.observe import Observation
from pitcrew_builder.spec import QuantizationMethod, WeightFormat

Encode: TypeAlias = Callable[[Floats], tuple[Codes, Floats]]
"""Rows [n, inputs] to codes [n, inputs] and scales [n, blocks]."""

Rows: TypeAlias = Callable[[], Iterator[Floats]]
"""Reads a matrix from its first row to its last, in runs."""

_TYPES = {
    WeightFormat.FP8: ElementType.FLOAT8,
    WeightFormat.INT8: ElementType.INT8,
    WeightFormat.INT4: ElementType.INT4,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How one matrix is encoded."""

    encode: Encode
    multipliers: Floats | None = None
    """[inputs]: the matrix is encoded times these, and its input has to be divided by them."""


def grid_for(recipe: QuantizationRecipe, inputs: int) -> Grid | None:
    """int4 in blocks, the wider types with a scale for each output; None where no block fits, or
    weights stay as they are.
    """
    if recipe.weights is None:
        return None
    kind = _TYPES[recipe.weights]
    if kind is not ElementType.INT4:
        return Grid(kind, inputs)
    block = widest_block(inputs, recipe.block_size)
    return None if block is None else Grid(kind, block)


def needs_moments(recipe: QuantizationRecipe) -> bool:
    """Whether the method reads second moments."""
    return recipe.method in (QuantizationMethod.AWQ, QuantizationMethod.GPTQ)


def plan(
    method: QuantizationMethod | None, grid: Grid, rows: Rows, seen: Observation | None
) -> Plan:
    """Decide everything that all rows share."""
    if method is QuantizationMethod.AWQ and seen is not None:
        return _awq(grid, rows, seen)
    if method is QuantizationMethod.GPTQ and seen is not None:
        factor = gptq.inverse_factor(seen.moment)
        return Plan(lambda matrix: gptq.encode(matrix, grid, factor))
    return Plan(lambda matrix: _rounded(matrix, grid))


def _rounded(matrix: Floats, grid: Grid) -> tuple[Codes, Floats]:
    scales = grid.scales(matrix)
    return grid.encode(matrix, scales), scales


def _awq(grid: Grid, rows: Rows, seen: Observation) -> Plan:
    sample = np.concatenate(list(rows()))
    moment = seen.moment
    scales = awq.input_scales(sample, grid, moment, seen.magnitude)
    scaled_moment = moment / np.outer(scales, scales)

    def encode(matrix: Floats) -> tuple[Codes, Floats]:
        scaled = matrix * scales
        steps = awq.clipped_scales(scaled, grid, scaled_moment)
        return grid.encode(scaled, steps), steps

    return Plan(encode, scales)
