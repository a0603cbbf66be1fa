"""Grouped-query self-attention over a paged cache."""

from dataclasses import dataclass

from pitcrew_builder.blocks.linear import linear, rms_norm
from pitcrew_builder.blocks.paged import paged_attention
from pitcrew_builder.blocks.rope import rotate
from pitcrew_builder.blocks.step import Step
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


def attention(
    e: Emitter, shape: Attention, rows: Value, prefix: str, layer: int, step: Step
) -> Value:
    """Attend from `rows` [B * S, hidden] and emit the layer's new keys and values."""
    queries = _project(e, shape, rows, f"{prefix}.q_proj", shape.heads, step)
    keys = _project(e, shape, rows, f"{prefix}.k_proj", shape.kv_heads, step)
    values = _project(e, shape, rows, f"{prefix}.v_proj", shape.kv_heads, step)
    queries = _head_norm(e, shape, queries, f"{prefix}.q_norm", shape.heads)
    keys = _head_norm(e, shape, keys, f"{prefix}.k_norm", shape.kv_heads)
    queries = rotate(e, queries, step.rotation, shape.heads, "q_rope")
    keys = rotate(e, keys, step.rotation, shape.kv_heads, "k_rope")
    attended = paged_attention(
        e,
        queries,
        keys,
        values,
        pools=step.pools[layer],
        block_tables=step.block_tables,
        mask=step.mask,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        scale=shape.head_dim**-0.5,
    )
    _publish(e, shape, keys, f"new_keys.{layer}")
    _publish(e, shape, values, f"new_values.{layer}")
    width = shape.heads * shape.head_dim
    flat = e.op("Reshape", attended, e.ints(-1, width), name="rows")
    return linear(e, flat, f"{prefix}.o_proj", width, shape.hidden, bias=shape.output_bias)


def _project(e: Emitter, shape: Attention, rows: Value, name: str, heads: int, step: Step) -> Value:
    """[B * S, hidden] to [B, S, heads * D]."""
    width = heads * shape.head_dim
    flat = linear(e, rows, name, shape.hidden, width, bias=shape.qkv_bias)
    return e.op("Reshape", flat, e.op("Concat", step.dims, e.ints(width), axis=0))


def _head_norm(e: Emitter, shape: Attention, value: Value, name: str, heads: int) -> Value:
    if shape.head_norm_epsilon is None:
        return value
    split = e.op("Reshape", value, e.ints(0, 0, heads, shape.head_dim))
    normed = rms_norm(e, split, name, shape.head_dim, shape.head_norm_epsilon)
    return e.op("Reshape", normed, e.ints(0, 0, heads * shape.head_dim))


def _publish(e: Emitter, shape: Attention, value: Value, name: str) -> None:
    dims = (shape.kv_heads, shape.head_dim)
    split = e.op("Reshape", value, e.ints(0, 0, *dims), name=name)
    e.output(split, name, ElementType.FLOAT32, "batch", "new", *dims)
