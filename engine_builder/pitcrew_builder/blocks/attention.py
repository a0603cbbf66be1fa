"""Grouped-query self-attention over a paged cache."""

from dataclasses import dataclass

from pitcrew_builder.blocks.linear import Inputs, Outputs, linear, rms_norm
from pitcrew_builder.blocks.norm import split_rms_norm
from pitcrew_builder.blocks.paged import paged_attention
from pitcrew_builder.blocks.rope import rotate
from pitcrew_builder.blocks.step import MAIN, Step
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import ElementType, Value


@dataclass(frozen=True, slots=True)
class Attention:
    """The shape of one attention block, and which of the common variations it has."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    output_bias: bool = False
    head_norm_epsilon: float | None = None
    """Set where queries and keys are normalized per head before they are rotated."""
    whole_norm_epsilon: float | None = None
    """Set where queries and keys are normalized over all heads together."""
    scale: float | None = None
    """What scores are multiplied by; default: one by the root of the head dimension."""
    window: int | None = None
    """How many tokens a token sees, itself included; default: all before it."""
    softcap: float | None = None
    """Scores are bent to stay between this and its negative."""
    sinks: bool = False
    """Every head has a learned score that takes weight and gives nothing."""
    rope: str = MAIN
    """Which of the network's rotations."""


def attention(
    e: Emitter, shape: Attention, rows: Value, prefix: str, layer: int, step: Step
) -> Value:
    """Attend from `rows` [B * S, hidden] and emit the layer's new keys and values."""
    own = e.layout.heads(shape.heads, shape.kv_heads)
    queries = _project(e, shape, rows, f"{prefix}.q_proj", shape.heads, own.query, step)
    keys = _project(e, shape, rows, f"{prefix}.k_proj", shape.kv_heads, own.kv, step)
    values = _project(e, shape, rows, f"{prefix}.v_proj", shape.kv_heads, own.kv, step)
    queries = _head_norm(e, shape, queries, f"{prefix}.q_norm", len(own.query))
    keys = _head_norm(e, shape, keys, f"{prefix}.k_norm", len(own.kv))
    queries = _whole_norm(e, shape, queries, f"{prefix}.q_norm", shape.heads, own.query)
    keys = _whole_norm(e, shape, keys, f"{prefix}.k_norm", shape.kv_heads, own.kv)
    angles = step.rotations[shape.rope]
    queries = rotate(e, queries, angles, len(own.query), "q_rope", shape.head_dim)
    keys = rotate(e, keys, angles, len(own.kv), "k_rope", shape.head_dim)
    sinks = e.weight(f"{prefix}.sinks", shape.heads, parts={0: own.query}) if shape.sinks else None
    attended = paged_attention(
        e,
        queries,
        keys,
        values,
        pools=step.pools[layer],
        block_tables=step.block_tables,
        mask=step.masks[shape.window],
        heads=len(own.query),
        kv_heads=len(own.kv),
        head_dim=shape.head_dim,
        scale=shape.head_dim**-0.5 if shape.scale is None else shape.scale,
        softcap=shape.softcap,
        sinks=sinks,
    )
    _publish(e, shape, keys, f"new_keys.{layer}", len(own.kv))
    _publish(e, shape, values, f"new_values.{layer}", len(own.kv))
    part = _features(own.query, shape.head_dim)
    flat = e.op("Reshape", attended, e.ints(-1, len(part)), name="rows")
    width, name = shape.heads * shape.head_dim, f"{prefix}.o_proj"
    return linear(e, flat, name, width, shape.hidden, bias=shape.output_bias, split=Inputs(part))


def _project(
    e: Emitter, shape: Attention, rows: Value, name: str, heads: int, own: range, step: Step
) -> Value:
    """[B * S, hidden] to [B, S, heads of this rank * D]."""
    width, part = heads * shape.head_dim, _features(own, shape.head_dim)
    flat = linear(e, rows, name, shape.hidden, width, bias=shape.qkv_bias, split=Outputs(part))
    return e.op("Reshape", flat, e.op("Concat", step.dims, e.ints(len(part)), axis=0))


def _features(heads: range, head_dim: int) -> range:
    return range(heads.start * head_dim, heads.stop * head_dim)


def _head_norm(e: Emitter, shape: Attention, value: Value, name: str, heads: int) -> Value:
    if shape.head_norm_epsilon is None:
        return value
    split = e.op("Reshape", value, e.ints(0, 0, heads, shape.head_dim))
    normed = rms_norm(e, split, name, shape.head_dim, shape.head_norm_epsilon)
    return e.op("Reshape", normed, e.ints(0, 0, heads * shape.head_dim))


def _whole_norm(
    e: Emitter, shape: Attention, value: Value, name: str, heads: int, own: range
) -> Value:
    if shape.whole_norm_epsilon is None:
        return value
    width, part = heads * shape.head_dim, _features(own, shape.head_dim)
    return split_rms_norm(e, value, name, width, part, shape.whole_norm_epsilon)


def _publish(e: Emitter, shape: Attention, value: Value, name: str, heads: int) -> None:
    dims = (heads, shape.head_dim)
    split = e.op("Reshape", value, e.ints(0, 0, *dims), name=name)
    e.output(split, name, ElementType.FLOAT32, "batch", "new", *dims)
