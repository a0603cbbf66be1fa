"""`llm::PagedAttention` as an ahead-of-time plugin: PTX by NVRTC, no Python when the plan runs.

The sizes come from the tensors' shapes and the scale is one by the root of the head dimension,
because attributes do not pass the bindings of TensorRT 10.15 here: scalar ones are read by a
conversion that numpy 2.4 and later refuse, and arrays by a check that Python 3.11 and later do.
"""

import os
from pathlib import Path

import tensorrt.plugin as trtp
from common import trt
from kernels import ptx

CLUSTER = 8
ROWS = 16
STAGES = 3
STATIC = 48 << 10
"""Bytes of shared memory that a kernel may have without asking."""

FEW, MANY = 33, 129
"""Units of work under which eight or four blocks share one, by `attention_kernel.py`."""

WARPS = int(os.environ.get("FACTS_WARPS", "0"))
"""Of a block; 0 for as many as need no more shared memory than every kernel may have."""


def register() -> None:
    """Make the plugin known to the parser."""

    @trtp.register("pitcrew::PagedAttention")
    def describe(
        queries: trtp.TensorDesc,
        keys: trtp.TensorDesc,
        values: trtp.TensorDesc,
        key_pool: trtp.TensorDesc,
        value_pool: trtp.TensorDesc,
        block_tables: trtp.TensorDesc,
        mask: trtp.TensorDesc,
    ) -> trtp.TensorDesc:
        return queries.like()

    @trtp.aot_impl("pitcrew::PagedAttention")
    def implement(
        queries: trtp.TensorDesc,
        keys: trtp.TensorDesc,
        values: trtp.TensorDesc,
        key_pool: trtp.TensorDesc,
        value_pool: trtp.TensorDesc,
        block_tables: trtp.TensorDesc,
        mask: trtp.TensorDesc,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        page, kv_heads, head_dim = (key_pool.shape_expr[i].constant_value() for i in (1, 2, 3))
        heads = queries.shape_expr[2].constant_value() // head_dim
        warps = WARPS or max(1, min(4, 256 // head_dim))
        shared = warps * STAGES * 2 * ROWS * head_dim * 2
        code = ptx(
            Path(__file__).with_name("attention.cu").read_text(),
            "attention.cu",
            T="half" if queries.dtype == trt.float16 else "__nv_bfloat16",
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            PAGE=page,
            SCALE=f"{head_dim**-0.5!r}f",
            CLUSTER=CLUSTER,
            WARPS=warps,
            SHARED_LATER=int(shared > STATIC),
        )
        launch = trtp.KernelLaunchParams()
        rows = queries.shape_expr[1] * (heads // kv_heads)
        units = queries.shape_expr[0] * ((rows + (ROWS - 1)) // ROWS) * kv_heads
        # Few units of work leave multiprocessors idle unless blocks share one.
        parts = (units < MANY) * 3 + (units < FEW) * 4 + 1
        launch.grid_x = (units * parts + (CLUSTER - 1)) // CLUSTER * CLUSTER
        launch.block_x = 32 * warps
        launch.shared_mem = shared if shared > STATIC else 0
        extra = trtp.SymIntExprs(4)
        for index, value in enumerate(
            (units, queries.shape_expr[1], block_tables.shape_expr[1], parts)
        ):
            extra[index] = trtp.SymInt32(value)
        return "paged_attention", code, launch, extra
