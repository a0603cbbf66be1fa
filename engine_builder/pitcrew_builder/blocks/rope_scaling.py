"""Ways to stretch rotations over longer texts than a model was first trained on.

Each works on single-precision periods `theta ** (i / dim)` and rounds where transformers rounds.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by a factor."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths divided by a factor, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): a ramp over dimensions, and attention made sharper by a factor."""

    factor: float
    original_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Whether the ends of the ramp are whole dimensions."""


@dataclass(frozen=True, slots=True)
class FactorScaling:
    """LongRoPE (Ding et al. 2024): a searched factor for each frequency, one set of two."""

    factors: tuple[float, ...]
    attention_factor: float


Scaling: TypeAlias = LinearScaling | Llama3Scaling | YarnScaling | FactorScaling


def attention_factor(scaling: Scaling | None) -> float:
    """What cosines and sines are multiplied by."""
    match scaling:
        case YarnScaling() | FactorScaling():
            return scaling.attention_factor
        case _:
            return 1.0


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """The factor of a YaRN config that states none."""

    def sharpness(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return sharpness(mscale) / sharpness(mscale_all_dim)
    return sharpness(1.0)


def longrope_attention_factor(factor: float, original_length: int) -> float:
    """The factor of a LongRoPE config that states none."""
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_length))


def scaled(periods: Floats, theta: float, scaling: Scaling | None) -> Floats:
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
