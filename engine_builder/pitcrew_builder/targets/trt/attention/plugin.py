"""The attention kernel as plugins of the functions that it computes."""

from functools import cache, partial

from pitcrew_builder.blocks.paged import CAPPED_PAGED_ATTENTION, SINK_PAGED_ATTENTION
from pitcrew_builder.graph.ir import Function
from pitcrew_builder.targets.trt import baked
from pitcrew_builder.targets.trt.attention.launch import ENTRY, SOURCE, Heads
from pitcrew_builder.targets.trt.attention.offer import SERVED
from pitcrew_builder.targets.trt.baked import Baked, Tensors
from pitcrew_builder.targets.trt.library import Native
from pitcrew_builder.targets.trt.nvrtc import compiled


@cache
def register(capability: int) -> None:
    """Make it known to the parser, for GPUs of a generation such as 90; once in a process.

    Nodes take it that name it and whose tensors are in half precision. Needs `tensorrt`.
    """
    for function in SERVED:
        baked.register(function, _described, partial(_baked, function, capability))


def _described(tensors: Tensors) -> Native:
    """As the queries."""
    return tensors[0].like()


def _baked(function: Function, capability: int, tensors: Tensors) -> Baked:
    queries, _, _, key_pool, _, block_tables, *_ = tensors
    heads = _heads(function, queries, key_pool)
    batch, new_tokens, _ = queries.shape_expr
    launch = heads.launch(batch, new_tokens, capability)
    return Baked(
        entry=ENTRY,
        code=compiled(__package__, SOURCE, heads.defines(capability), capability),
        grid=launch.grid,
        threads=launch.threads,
        sizes=(launch.units, new_tokens, block_tables.shape_expr[1], launch.parts),
    )


def _heads(function: Function, queries: Native, key_pool: Native) -> Heads:
    page, kv_heads, head_dim = (key_pool.shape_expr[at].constant_value() for at in (1, 2, 3))
    return Heads(
        heads=queries.shape_expr[2].constant_value() // head_dim,
        kv_heads=kv_heads,
        head_dim=head_dim,
        page=page,
        bfloat16=baked.is_bfloat16(queries),
        capped=function is CAPPED_PAGED_ATTENTION,
        sinks=function is SINK_PAGED_ATTENTION,
    )
