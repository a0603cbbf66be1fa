"""The kernel for norms as a plugin of the function that it computes."""

from functools import cache, partial

from pitcrew_builder.blocks.products import RMS_NORM
from pitcrew_builder.targets.trt import baked
from pitcrew_builder.targets.trt.baked import Baked, Tensors
from pitcrew_builder.targets.trt.library import Native
from pitcrew_builder.targets.trt.norms.launch import ENTRY, SOURCE, THREADS, Rows
from pitcrew_builder.targets.trt.nvrtc import compiled


@cache
def register(capability: int) -> None:
    """Make it known to the parser, for GPUs of a generation such as 90; once in a process."""
    baked.register(RMS_NORM, _described, partial(_baked, capability))


def _described(tensors: Tensors) -> Native:
    """As the rows."""
    return tensors[0].like()


def _baked(capability: int, tensors: Tensors) -> Baked:
    rows, scale, _ = tensors
    (width,) = baked.static(scale)
    told = Rows(width, baked.is_bfloat16(rows))
    count, *others, _ = rows.shape_expr
    for size in others:
        count = count * size
    return Baked(
        entry=ENTRY,
        code=compiled(__package__, SOURCE, told.defines(), capability),
        grid=told.grid(count),
        threads=THREADS,
        sizes=(count,),
    )
