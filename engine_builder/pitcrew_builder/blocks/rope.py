"""Rotary position embedding: tables of angles, and their look-up by position."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.blocks.rope_scaling import Scaling, attention_factor, scaled
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn into rotations of the first `dim` elements of a head."""

    dim: int
    theta: float
    scaling: Scaling | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines [B, S, dim / 2] of the new tokens' angles."""

    cos: Value
    sin: Value
    dim: int


def inverse_frequencies(rope: Rope) -> Floats:
    """Radians per position, [dim / 2].

    Rounded to single precision where the models' own code rounds: an angle is a frequency times a
    position, and at position 8,000 a last bit more or less is already 5e-4 radians.
    """
    exponents = np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim
    return scaled((rope.theta**exponents).astype(np.float32), rope.theta, rope.scaling)


def tables(rope: Rope, length: int) -> tuple[Floats, Floats]:
    """Cosines and sines [length, dim / 2] of positions 0 to length - 1."""
    angles = np.outer(np.arange(length, dtype=np.float32), inverse_frequencies(rope))
    factor = np.float32(attention_factor(rope.scaling))
    return np.cos(angles) * factor, np.sin(angles) * factor


def rotation(e: Emitter, rope: Rope, positions: Value, length: int, name: str = "rope") -> Rotation:
    """Look up the angles of `positions` int64 [B, S], once for all layers."""
    cos, sin = tables(rope, length)
    return Rotation(
        cos=e.op("Gather", e.literal(cos, f"{name}.cos"), positions, name="cos", axis=0),
        sin=e.op("Gather", e.literal(sin, f"{name}.sin"), positions, name="sin", axis=0),
        dim=rope.dim,
    )


def rotate(
    e: Emitter, heads: Value, angles: Rotation, count: int, name: str, head_dim: int
) -> Value:
    """Rotate `count` heads, laid side by side in [B, S, count * head_dim]."""
    partial = {"rotary_embedding_dim": angles.dim} if angles.dim < head_dim else {}
    return e.op(
        "RotaryEmbedding", heads, angles.cos, angles.sin, name=name, num_heads=count, **partial
    )
