"""Rotary position embedding: how it is told, and the look-up of its angles by position."""

from dataclasses import dataclass

from pitcrew_builder.blocks.rope_scaling import Scaling
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn into rotations of the first `dim` elements of a head."""

    dim: int
    theta: float
    scaling: Scaling | None = None
    short: Scaling | None = None
    """That of short texts, in networks that rotate them otherwise (`StepPlan.short_length`)."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines [B, S, dim / 2] of the new tokens' angles."""

    cos: Value
    sin: Value
    dim: int


def rotation(
    e: Emitter, rope: Rope, positions: Value, lengths: tuple[int, int], name: str = "rope"
) -> Rotation:
    """Look up the angles of `positions` int64 [B, S], once for all layers.

    `lengths` are those of all texts and of short ones, whose angles lie behind the others.
    """
    # A build that finds its engine draws nothing, and NumPy takes a tenth of a second.
    from pitcrew_builder.blocks.angles import tables

    cos, sin = tables(rope, *lengths)
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
