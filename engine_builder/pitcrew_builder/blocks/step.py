"""What one step of the network has in common across its layers."""

from collections.abc import Mapping
from dataclasses import dataclass

from pitcrew_builder.blocks.mask import additive_masks
from pitcrew_builder.blocks.rope import Rope, Rotation, rotation
from pitcrew_builder.graph.emitter import ABSENT, Emitter
from pitcrew_builder.graph.ir import ElementType, Value

MAIN, LOCAL = "rope", "local_rope"
"""Names of rotations: the one that all networks have, and that of layers with a window."""

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
    masks: Mapping[int | None, Value]
    """Additive, by window; None is the mask without one."""
    rotations: Mapping[str, Rotation]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What has to be computed once for the layers of a network."""

    cache: CacheLayout
    ropes: Mapping[str, Rope]
    max_length: int
    short_length: int = 0
    """Tokens of the longest text that has angles of its own; 0 where all have the same."""
    windows: tuple[int | None, ...] = (None,)
    """Every kind of window that some layer has."""


def open_step(e: Emitter, plan: StepPlan) -> Step:
    """Declare the graph's inputs; look up the rotations and build the masks."""
    int64 = ElementType.INT64
    input_ids = e.input("input_ids", int64, BATCH, NEW)
    positions = e.input("positions", int64, BATCH, NEW)
    block_tables = e.input("block_tables", int64, BATCH, BLOCKS)
    context_lengths = e.input("context_lengths", int64, BATCH)
    wanted = e.layout.is_last_stage
    logit_indices = e.input("logit_indices", int64, BATCH, WANTED) if wanted else ABSENT
    pools = {layer: _pool(e, plan.cache, layer) for layer in e.layout.layers(plan.cache.layers)}
    with e.scope("step"):
        lengths = plan.max_length, plan.short_length
        return Step(
            input_ids=input_ids,
            logit_indices=logit_indices,
            block_tables=block_tables,
            pools=pools,
            dims=e.op("Shape", input_ids, name="dims"),
            masks=additive_masks(
                e, input_ids, block_tables, context_lengths, plan.cache.page, plan.windows
            ),
            rotations={
                name: rotation(e, rope, positions, lengths, name)
                for name, rope in plan.ropes.items()
            },
        )


def _pool(e: Emitter, cache: CacheLayout, layer: int) -> tuple[Value, Value]:
    kv_heads = len(e.layout.kv_heads(cache.kv_heads))
    dims = (PAGES, cache.page, kv_heads, cache.head_dim)
    return (
        e.input(f"key_pool.{layer}", ElementType.FLOAT32, *dims),
        e.input(f"value_pool.{layer}", ElementType.FLOAT32, *dims),
    )
