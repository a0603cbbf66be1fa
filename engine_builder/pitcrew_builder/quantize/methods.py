"""The ways to codes, behind one face: a matrix comes in runs of rows, codes and scales go out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pitcrew_builder.manifest import QuantizationRecipe
from pitcrew_builder.quantize import awq, gptq
from pitcrew_builder.quantize.grid import Codes, Floats, Grid
from pitcrew_builder.quantize.observe import Observation
from pitcrew_builder.spec import QuantizationMethod

Encode: TypeAlias = Callable[[Floats], tuple[Codes, Floats]]
"""Rows [n, inputs] to codes [n, inputs] and scales [n, blocks]."""

Rows: TypeAlias = Callable[[], Iterator[Floats]]
"""Reads a matrix from its first row to its last, in runs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one matrix is encoded."""

    encode: Encode
    multipliers: Floats | None = None
    """[inputs]: the matrix is encoded times these, and its input has to be divided by them."""


def needs_moments(recipe: QuantizationRecipe) -> bool:
    """Whether the method reads second moments."""
    return recipe.method in (QuantizationMethod.AWQ, QuantizationMethod.GPTQ)


def plan(
    method: QuantizationMethod | None,
    grid: Grid,
    rows: Rows,
    seen: Observation | None,
    *,
    scales_inputs: bool = True,
) -> Plan:
    """Decide everything that all rows share.

    Without `scales_inputs` a matrix must be fed as it is: others read the same activations.
    """
    if method is QuantizationMethod.AWQ and seen is not None:
        return _awq(grid, rows, seen) if scales_inputs else _clipped(grid, seen)
    if method is QuantizationMethod.GPTQ and seen is not None:
        problem = gptq.Problem.of(seen.moment)
        return Plan(lambda matrix: gptq.encode(matrix, grid, problem))
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


def _clipped(grid: Grid, seen: Observation) -> Plan:
    """The second half of AWQ alone."""
    moment = seen.moment

    def encode(matrix: Floats) -> tuple[Codes, Floats]:
        steps = awq.clipped_scales(matrix, grid, moment)
        return grid.encode(matrix, steps), steps

    return Plan(encode)
