"""GPTQ: round one input after the other, and let the inputs not yet rounded make up for the error.

After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2022): the optimal correction of the remaining weights comes from the inverse of
H = E[x x^T], and all of it from the Cholesky factor of that inverse, dampened by a hundredth of
the mean diagonal. Corrections reach the current block at once and the rest of the matrix lazily.
Outputs do not depend on each other, so a matrix may come in runs of rows.
"""

import numpy as np

from pitcrew_builder.quantize.grid import Codes, Floats, Grid

DAMPING = 0.01

RUN = 128
"""Inputs that are rounded before the rest of the matrix hears of it."""


def inverse_factor(moment: Floats) -> Floats:
    """The upper Cholesky factor U of the dampened inverse of `moment` [inputs, inputs]."""
    damped = moment.astype(np.float64)
    diagonal = np.einsum("ii->i", damped)
    # An input that was always 0 tells nothing; its weights may be rounded as they are.
    diagonal[diagonal == 0] = 1
    diagonal += DAMPING * diagonal.mean()
    factor: Floats = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    return factor


def encode(matrix: Floats, grid: Grid, factor: Floats) -> tuple[Codes, Floats]:
    """Codes [outputs, inputs] and scales [outputs, blocks] of `matrix` [outputs, inputs]."""
    rest = matrix.copy()
    codes = grid.nearest(np.zeros_like(matrix))
    scales = np.empty((len(matrix), matrix.shape[1] // grid.block), np.float32)
    for start in range(0, matrix.shape[1], step := min(grid.block, RUN)):
        run = slice(start, start + step)
        if start % grid.block == 0:
            whole = slice(start, start + grid.block)
            scales[:, start // grid.block] = grid.scales(rest[:, whole])[:, 0]
        column = scales[:, start // grid.block]
        errors = _round_run(rest[:, run], codes[:, run], column, grid, factor[run, run])
        rest[:, run.stop :] -= errors @ factor[run, run.stop :]
    return codes, scales


def _round_run(rest: Floats, codes: Codes, scales: Floats, grid: Grid, factor: Floats) -> Floats:
    """Fill `codes` [outputs, run] in place and return the errors [outputs, run] to pass on."""
    errors = np.empty_like(rest)
    for column in range(rest.shape[1]):
        wanted = rest[:, column]
        code = grid.nearest(wanted / scales)
        codes[:, column] = code
        errors[:, column] = (wanted - code.astype(np.float32) * scales) / factor[column, column]
        rest[:, column + 1 :] -= np.outer(errors[:, column], factor[column, column + 1 :])
    return errors
