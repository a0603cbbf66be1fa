"""The kernel as an ahead-of-time plugin `pitcrew::PagedAttention`: its PTX is in the plan, and no
Python runs when the plan does.

Sizes are read from the tensors' shapes, and the scale is the usual one of their heads: with today's
numpy and Python the bindings of TensorRT 10.15 read no kind of attribute, and of a text the first
letter only.
"""

import importlib
from functools import cache
from types import GenericAlias

from pitcrew_builder.errors import CompilationFailed
from pitcrew_builder.targets.trt.attention.launch import ENTRY, Heads
from pitcrew_builder.targets.trt.attention.ptx import compiled
from pitcrew_builder.targets.trt.library import Native

NAME = "pitcrew::PagedAttention"
TENSORS = ("queries", "keys", "values", "key_pool", "value_pool", "block_tables", "mask")


@cache
def register(capability: int) -> None:
    """Make it known to the parser, for GPUs of a generation such as 90; once in a process.

    Nodes take it that name it and whose tensors are in half precision. Needs `tensorrt`.
    """
    trtp = importlib.import_module("tensorrt.plugin")

    def describe(
        queries: Native,
        keys: Native,
        values: Native,
        key_pool: Native,
        value_pool: Native,
        block_tables: Native,
        mask: Native,
    ) -> Native:
        return queries.like()

    def implement(
        queries: Native,
        keys: Native,
        values: Native,
        key_pool: Native,
        value_pool: Native,
        block_tables: Native,
        mask: Native,
        outputs: Native,
        tactic: int,
    ) -> Native:
        heads = _heads(queries, key_pool)
        batch, new_tokens = queries.shape_expr[0], queries.shape_expr[1]
        launch = heads.launch(batch, new_tokens, capability)
        native = trtp.KernelLaunchParams()
        native.grid_x, native.block_x = launch.grid, launch.threads
        extra = trtp.SymIntExprs(4)
        sizes = (launch.units, new_tokens, block_tables.shape_expr[1], launch.parts)
        for index, size in enumerate(sizes):
            extra[index] = trtp.SymInt32(size)
        return ENTRY, compiled(heads.defines(capability), capability), native, extra

    tensors = dict.fromkeys(TENSORS, trtp.TensorDesc)
    describe.__annotations__ = {**tensors, "return": trtp.TensorDesc}
    code = str | bytes
    native = (code, code, trtp.KernelLaunchParams, trtp.SymIntExprs)
    implement.__annotations__ = {
        **tensors,
        "outputs": GenericAlias(tuple, (trtp.TensorDesc,)),
        "tactic": int,
        "return": GenericAlias(tuple, native),
    }
    trtp.register(NAME)(describe)
    trtp.aot_impl(NAME)(implement)


def _heads(queries: Native, key_pool: Native) -> Heads:
    trt = importlib.import_module("tensorrt")
    page, kv_heads, head_dim = (key_pool.shape_expr[at].constant_value() for at in (1, 2, 3))
    if queries.dtype not in (trt.float16, trt.bfloat16):
        raise CompilationFailed(f"the attention kernel knows no {queries.dtype}")
    return Heads(
        heads=queries.shape_expr[2].constant_value() // head_dim,
        kv_heads=kv_heads,
        head_dim=head_dim,
        page=page,
        bfloat16=queries.dtype == trt.bfloat16,
    )
