"""Ways to stretch rotations over longer texts than a model was first trained on.

They are told here; `blocks.angles` computes them.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias


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
class ProportionalScaling:
    """The fastest `turned` frequencies of a whole head, divided by a factor; the others stand still."""

    turned: int
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class FactorScaling:
    """LongRoPE (Ding et al. 2024): a searched factor for each frequency, one set of two."""

    factors: tuple[float, ...]
    attention_factor: float


Scaling: TypeAlias = (
    LinearScaling | Llama3Scaling | YarnScaling | ProportionalScaling | FactorScaling
)


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
