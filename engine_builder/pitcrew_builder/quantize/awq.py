"""AWQ: protect the inputs that matter by scaling them up before rounding, and clip the rest.

After Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration"
(2023). A matrix W is rounded as Q(W diag(s)) and fed x / s; channels that carry large activations
get large s and so a finer grid. The paper searches s = mean|x|^alpha, and then a clipping of each
block, for the least squared error of the output on calibration data. That error is exactly
trace(D H D^T) with D the error of the weights and H = E[x x^T], so H is all that is kept of the
data. The search for s reads a sample of the rows, as all rows share it.
"""

import numpy as np

from pitcrew_builder.quantize.grid import Floats, Grid

ALPHAS = tuple(index / 20 for index in range(20))
CLIPS = tuple(1 - index / 40 for index in range(21))
SEARCHED_CLIPS = CLIPS[::4]
"""The search for s tries fewer, as it tries them for every alpha."""

SAMPLED_ROWS = 256


def input_scales(matrix: Floats, grid: Grid, moment: Floats, magnitude: Floats) -> Floats:
    """The multipliers s [inputs] of least output error.

    `matrix` is [outputs, inputs], `moment` E[x x^T] [inputs, inputs], `magnitude` E[|x|] [inputs].
    """
    rows = matrix[:: max(1, len(matrix) // SAMPLED_ROWS)]
    candidates = [_normalized(magnitude, alpha) for alpha in ALPHAS]
    losses = [_output_error(_error(rows, grid, moment, scales), moment) for scales in candidates]
    return candidates[int(np.argmin(losses))]


def clipped_scales(
    matrix: Floats, grid: Grid, moment: Floats, clips: tuple[float, ...] = CLIPS
) -> Floats:
    """Scales [outputs, blocks] that cut off a block's largest elements where that pays.

    Both arguments are of the scaled problem: W diag(s), and E of x / s. Each block is judged by
    its own part of the output, as in the paper.
    """
    full = grid.scales(matrix)
    best, least = full, np.full(full.shape, np.inf, np.float32)
    for ratio in clips:
        scales = full * np.float32(ratio)
        error = grid.blocks(matrix - grid.rounded(matrix, scales))
        loss = _block_errors(error, grid, moment)
        best, least = np.where(loss < least, scales, best), np.minimum(loss, least)
    return best


def _normalized(magnitude: Floats, alpha: float) -> Floats:
    powered = np.maximum(magnitude, np.float32(1e-6)) ** np.float32(alpha)
    middle = np.sqrt(powered.max() * powered.min())
    scales: Floats = (powered / middle).astype(np.float32)
    return scales


def _error(rows: Floats, grid: Grid, moment: Floats, scales: Floats) -> Floats:
    """The error of the weights once they are scaled, clipped and rounded."""
    scaled = rows * scales
    scaled_moment = moment / np.outer(scales, scales)
    steps = clipped_scales(scaled, grid, scaled_moment, SEARCHED_CLIPS)
    error: Floats = grid.rounded(scaled, steps) / scales - rows
    return error


def _output_error(error: Floats, moment: Floats) -> float:
    return float(((error @ moment) * error).sum(dtype=np.float64))


def _block_errors(error: Floats, grid: Grid, moment: Floats) -> Floats:
    """[outputs, blocks] of e H_bb e^T for each block's error e [block]."""
    count = error.shape[1]
    squares = moment.reshape(count, grid.block, count, grid.block)
    diagonal = np.ascontiguousarray(squares[np.arange(count), :, np.arange(count), :])
    # By blocks first, so that each product is one of two plain matrices.
    errors = np.ascontiguousarray(error.transpose(1, 0, 2))
    losses: Floats = np.einsum("boi,boi->ob", errors @ diagonal, errors)
    return losses
