"""Tables of the angles that rotary embedding turns heads by.

Works on single-precision periods `theta ** (i / dim)` and rounds where transformers rounds.
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.blocks.rope import Rope
from pitcrew_builder.blocks.rope_scaling import (
    FactorScaling,
    LinearScaling,
    Llama3Scaling,
    ProportionalScaling,
    Scaling,
    YarnScaling,
    attention_factor,
)

Floats: TypeAlias = npt.NDArray[np.float32]


def inverse_frequencies(rope: Rope, scaling: Scaling | None) -> Floats:
    """Radians per position, [dim / 2].

    Rounded to single precision where the models' own code rounds: an angle is a frequency times a
    position, and at position 8,000 a last bit more or less is already 5e-4 radians.
    """
    exponents = np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim
    return _scaled((rope.theta**exponents).astype(np.float32), rope.theta, scaling)


def tables(rope: Rope, length: int, short_length: int = 0) -> tuple[Floats, Floats]:
    """Cosines and sines [length + short_length, dim / 2].

    Those of positions 0 to length - 1, and behind them those of short texts.
    """
    cos, sin = _table(rope, rope.scaling, length)
    if not short_length:
        return cos, sin
    short = _table(rope, rope.short or rope.scaling, short_length)
    return np.concatenate([cos, short[0]]), np.concatenate([sin, short[1]])


def _table(rope: Rope, scaling: Scaling | None, length: int) -> tuple[Floats, Floats]:
    angles = np.outer(np.arange(length, dtype=np.float32), inverse_frequencies(rope, scaling))
    factor = np.float32(attention_factor(scaling))
    return np.cos(angles) * factor, np.sin(angles) * factor


def _scaled(periods: Floats, theta: float, scaling: Scaling | None) -> Floats:
    """Radians per position [dim / 2] from `periods` [dim / 2]."""
    match scaling:
        case None:
            return np.float32(1.0) / periods
        case LinearScaling(factor):
            return np.float32(1.0) / periods / np.float32(factor)
        case Llama3Scaling():
            return _llama3(np.float32(1.0) / periods, scaling)
        case YarnScaling():
            return _yarn(periods, theta, scaling)
        case ProportionalScaling(turned, factor):
            plain = np.float32(1.0) / periods / np.float32(factor)
            plain[turned:] = 0
            return plain
        case FactorScaling(factors):
            return np.float32(1.0) / (np.array(factors, dtype=np.float32) * periods)


def _llama3(plain: Floats, scaling: Llama3Scaling) -> Floats:
    turns = scaling.original_length * plain / np.float32(2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0).astype(np.float32)
    mixed: Floats = kept * plain + (1 - kept) * plain / np.float32(scaling.factor)
    return mixed


def _yarn(periods: Floats, theta: float, scaling: YarnScaling) -> Floats:
    low, high = _ramp_ends(2 * len(periods), theta, scaling)
    index = np.arange(len(periods), dtype=np.float32)
    ramp = np.clip((index - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    kept = (1 - ramp).astype(np.float32)
    plain = np.float32(1.0) / periods
    stretched = np.float32(1.0) / (np.float32(scaling.factor) * periods)
    mixed: Floats = stretched * (1 - kept) + plain * kept
    return mixed


def _ramp_ends(dim: int, theta: float, scaling: YarnScaling) -> tuple[float, float]:
    """The dimensions that turn `beta_fast` and `beta_slow` times over the original length."""

    def dimension(turns: float) -> float:
        wavelength = scaling.original_length / (turns * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    # Equal ends would divide by zero; the models' code parts them by this much.
    return (low, high + 0.001) if low == high else (low, high)
