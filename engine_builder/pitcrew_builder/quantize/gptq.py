"""GPTQ: round one input after the other, and let the inputs not yet rounded make up for the error.

After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022): the optimal correction of the remaining weights comes from the inverse of
H = E[x x^T], and all of it from the Cholesky factor of that inverse, dampened by a hundredth of
the mean diagonal. Corrections reach the current run at once and the rest of the matrix lazily.

Inputs are taken from the one of most energy to the one of least, so that those that matter are
rounded while many are left to make up for it (the authors' `act-order`). Scales are fixed before, by
the blocks as they lie (their `static-groups`), so the order leaves no trace in the result. Where
blocks are clipped, by the search of AWQ. Outputs do not depend on each other, so a matrix may come
in runs of rows.
"""

from dataclasses import dataclass

import numpy as np

from pitcrew_builder.checkpoint.coded import Indices
from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.quantize import awq
from pitcrew_builder.quantize.grid import Codes, Floats, Grid

DAMPING = 0.01

RUN = 128
"""Inputs that are rounded before the rest of the matrix hears of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What all rows of a matrix share."""

    moment: Floats
    """E[x x^T], [inputs, inputs]."""
    order: Indices
    """[inputs]: which one is rounded first, second, ..."""
    factor: Floats
    """The upper Cholesky factor of the dampened inverse of `moment`, in that order."""

    @classmethod
    def of(cls, moment: Floats) -> "Problem":
        """Prepare for matrices over inputs of that second moment."""
        damped = moment.astype(np.float64)
        diagonal = np.einsum("ii->i", damped)
        # An input that was always 0 tells nothing; its weights may be rounded as they are.
        diagonal[diagonal == 0] = 1
        diagonal += DAMPING * diagonal.mean()
        order = np.argsort(-diagonal, kind="stable")
        inverse = np.linalg.inv(damped[np.ix_(order, order)])
        return cls(moment, order, np.linalg.cholesky(inverse).T.astype(np.float32))


def encode(matrix: Floats, grid: Grid, problem: Problem) -> tuple[Codes, Floats]:
    """Codes [outputs, inputs] and scales [outputs, blocks] of `matrix` [outputs, inputs]."""
    scales = _scales(matrix, grid, problem)
    order, factor = problem.order, problem.factor
    rest, steps = matrix[:, order], scales[:, order // grid.block]
    ordered = grid.nearest(np.zeros_like(matrix))
    for start in range(0, matrix.shape[1], RUN):
        run = slice(start, start + RUN)
        errors = _round_run(rest[:, run], ordered[:, run], steps[:, run], grid, factor[run, run])
        rest[:, run.stop :] -= errors @ factor[run, run.stop :]
    codes = np.empty_like(ordered)
    codes[:, order] = ordered
    return codes, scales


def _scales(matrix: Floats, grid: Grid, problem: Problem) -> Floats:
    # Floating point has no step to gain by clipping.
    if grid.type is ElementType.FLOAT8:
        return grid.scales(matrix)
    return awq.clipped_scales(matrix, grid, problem.moment)


def _round_run(rest: Floats, codes: Codes, steps: Floats, grid: Grid, factor: Floats) -> Floats:
    """Fill `codes` [outputs, run] in place and return the errors [outputs, run] to pass on."""
    errors = np.empty_like(rest)
    for column in range(rest.shape[1]):
        wanted, step = rest[:, column], steps[:, column]
        code = grid.nearest(wanted / step)
        codes[:, column] = code
        errors[:, column] = (wanted - code.astype(np.float32) * step) / factor[column, column]
        rest[:, column + 1 :] -= np.outer(errors[:, column], factor[column, column + 1 :])
    return errors
