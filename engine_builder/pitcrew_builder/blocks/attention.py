"""Grouped-query self-attention over a paged cache."""

from dataclasses import dataclass

from pitcrew_builder.blocks.linear import Inputs, Outputs, linear, rms_norm
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
    own = e.layout.heads(shape.heads, shape.kv_heads)
    queries = _project(e, shape, rows, f"{prefix}.q_proj", shape.heads, own.query, step)
    keys = _project(e, shape, rows, f"{prefix}.k_proj", shape.kv_heads, own.kv, step)
    values = _project(e, shape, rows, f"{prefix}.v_proj", shape.kv_heads, own.kv, step)
    queries = _head_norm(e, shape, queries, f"{prefix}.q_norm", len(own.query))
    keys = _head_norm(e, shape, keys, f"{prefix}.k_norm", len(own.kv))
    queries = rotate(e, queries, step.rotation, len(own.query), "q_rope")
    keys = rotate(e, keys, step.rotation, len(own.kv), "k_rope")
    attended = paged_attention(
        e,
        queries,
        keys,
        values,
        pools=step.pools[layer],
        block_tables=step.block_tables,
        mask=step.mask,
        heads=len(own.query),
        kv_heads=len(own.kv),
        head_dim=shape.head_dim,
        scale=shape.head_dim**-0.5,
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


def _publish(e: Emitter, shape: Attention, value: Value, name: str, heads: int) -> None:
    dims = (heads, shape.head_dim)
    split = e.op("Reshape", value, e.ints(0, 0, *dims), name=name)
    e.output(split, name, ElementType.FLOAT32, "batch", "new", *dims)
