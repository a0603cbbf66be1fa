"""Rotary position embedding: inverse frequencies, tables, and their look-up by position."""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value

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
class Rope:
    """How positions turn into rotations of a head of `dim` elements."""

    dim: int
    theta: float
    scaling: LinearScaling | Llama3Scaling | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines [B, S, dim / 2] of the new tokens' angles."""

    cos: Value
    sin: Value


def inverse_frequencies(rope: Rope) -> Floats:
    """Radians per position, [dim / 2].

    Rounded to single precision where the models' own code rounds: an angle is a frequency times a
    position, and at position 8,000 a last bit more or less is already 5e-4 radians.
    """
    exponents = np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim
    plain = np.float32(1.0) / (rope.theta**exponents).astype(np.float32)
    match rope.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            return plain / np.float32(factor)
        case Llama3Scaling():
            return _llama3(plain, rope.scaling)


def _llama3(plain: Floats, scaling: Llama3Scaling) -> Floats:
    turns = scaling.original_length * plain / np.float32(2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0).astype(np.float32)
    mixed: Floats = kept * plain + (1 - kept) * plain / np.float32(scaling.factor)
    return mixed


def tables(rope: Rope, length: int) -> tuple[Floats, Floats]:
    """Cosines and sines [length, dim / 2] of positions 0 to length - 1."""
    angles = np.outer(np.arange(length, dtype=np.float32), inverse_frequencies(rope))
    return np.cos(angles), np.sin(angles)


def rotation(e: Emitter, rope: Rope, positions: Value, length: int) -> Rotation:
    """Look up the angles of `positions` int64 [B, S], once for all layers."""
    cos, sin = tables(rope, length)
    return Rotation(
        cos=e.op("Gather", e.literal(cos, "rope.cos"), positions, name="cos", axis=0),
        sin=e.op("Gather", e.literal(sin, "rope.sin"), positions, name="sin", axis=0),
    )


def rotate(e: Emitter, heads: Value, angles: Rotation, count: int, name: str) -> Value:
    """Rotate `count` heads, laid side by side in [B, S, count * dim]."""
    return e.op("RotaryEmbedding", heads, angles.cos, angles.sin, name=name, num_heads=count)
