"""What one step of the network has in common across its layers."""

from collections.abc import Mapping
from dataclasses import dataclass

from pitcrew_builder.blocks.paged import additive_mask
from pitcrew_builder.blocks.rope import Rope, Rotation, rotation
from pitcrew_builder.graph.emitter import ABSENT, Emitter
from pitcrew_builder.graph.ir import ElementType, Value

BATCH, NEW, BLOCKS, PAGES, WANTED = "batch", "new", "blocks", "pages", "wanted"


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The KV pools: one pair a layer, each [pages, page, kv_heads, head_dim]."""

    layers: int
    page: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs of `manifest.GraphInterface` and what is computed from them once."""

    input_ids: Value
    logit_indices: Value
    """`ABSENT` where another stage computes the logits."""
    block_tables: Value
    pools: Mapping[int, tuple[Value, Value]]
    """By layer, for the layers of this rank."""
    dims: Value
    """int64 [2]: B and S."""
    mask: Value
    rotation: Rotation


def open_step(e: Emitter, cache: CacheLayout, rope: Rope, max_length: int) -> Step:
    """Declare the graph's inputs; look up the rotation and build the mask."""
    int64 = ElementType.INT64
    input_ids = e.input("input_ids", int64, BATCH, NEW)
    positions = e.input("positions", int64, BATCH, NEW)
    block_tables = e.input("block_tables", int64, BATCH, BLOCKS)
    context_lengths = e.input("context_lengths", int64, BATCH)
    wanted = e.layout.is_last_stage
    logit_indices = e.input("logit_indices", int64, BATCH, WANTED) if wanted else ABSENT
    pools = {layer: _pool(e, cache, layer) for layer in e.layout.layers(cache.layers)}
    with e.scope("step"):
        return Step(
            input_ids=input_ids,
            logit_indices=logit_indices,
            block_tables=block_tables,
            pools=pools,
            dims=e.op("Shape", input_ids, name="dims"),
            mask=additive_mask(e, input_ids, block_tables, context_lengths, cache.page),
            rotation=rotation(e, rope, positions, max_length),
        )


def _pool(e: Emitter, cache: CacheLayout, layer: int) -> tuple[Value, Value]:
    kv_heads = len(e.layout.kv_heads(cache.kv_heads))
    dims = (PAGES, cache.page, kv_heads, cache.head_dim)
    return (
        e.input(f"key_pool.{layer}", ElementType.FLOAT32, *dims),
        e.input(f"value_pool.{layer}", ElementType.FLOAT32, *dims),
    )
