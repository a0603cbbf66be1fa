"""The kernel for products as plugins of the functions that it computes."""

import importlib
from functools import cache, partial

from pitcrew_builder.blocks.products import BIASED_PRODUCT, EXPERT_PRODUCTS, PRODUCT
from pitcrew_builder.targets.trt import baked
from pitcrew_builder.targets.trt.baked import Baked, Tensors
from pitcrew_builder.targets.trt.library import Native
from pitcrew_builder.targets.trt.nvrtc import compiled
from pitcrew_builder.targets.trt.products.launch import ENTRY, SOURCE, THREADS, Matrix


@cache
def register(capability: int) -> None:
    """Make it known to the parser, for GPUs of a generation such as 90; once in a process.

    Nodes take it that name it and whose tensors are in half precision. Needs `tensorrt`.
    """
    for function in (PRODUCT, BIASED_PRODUCT, EXPERT_PRODUCTS):
        baked.register(function, _described, partial(_baked, capability))


def _described(tensors: Tensors) -> Native:
    """[T, N], or [E, T, N]."""
    trtp = importlib.import_module("tensorrt.plugin")
    rows, matrix = tensors[:2]
    *experts, outputs, _ = matrix.shape_expr
    return trtp.from_shape_expr((*experts, rows.shape_expr[-2], outputs), dtype=rows.dtype)


def _baked(capability: int, tensors: Tensors) -> Baked:
    rows, matrix, *bias = tensors
    *experts, outputs, inputs = baked.static(matrix)
    told = Matrix(outputs, inputs, baked.is_bfloat16(rows), bool(bias), *experts)
    count = rows.shape_expr[-2]
    is_shared = int(len(rows.shape_expr) == 2)
    return Baked(
        entry=ENTRY,
        code=compiled(__package__, SOURCE, told.defines(capability), capability),
        grid=told.grid(count, capability),
        threads=THREADS,
        sizes=(count, told.outputs, told.inputs, told.count, is_shared),
    )
