"""The two optimization profiles of a plan: many new tokens of a sequence, or one of each.

A profile says for every input the least, the usual and the largest shape; kernels are chosen for
the usual one and work for all. Dimensions have names (`blocks.step`), so a profile is a size for
each name. Both profiles share the plan's weights.
"""

from collections.abc import Iterable, Mapping

from pitcrew_builder.adapters.slots import SLOTS
from pitcrew_builder.blocks.step import BATCH, BLOCKS, NEW, PAGES, WANTED
from pitcrew_builder.graph.ir import Port
from pitcrew_builder.manifest import PlanProfile, ResolvedShapes
from pitcrew_builder.spec import Lora, TensorRtPlan
from pitcrew_builder.targets.trt.shapes import with_products

WANTED_ROWS = 8
"""Positions of a sequence whose logits one prefill step gives, for checking drafted tokens."""

POOL_SHARE = 2
"""Pages of a pool at most, in multiples of what all sequences at full length take: what is beyond
one keeps prefixes of finished requests."""

_SIZES = (BATCH, NEW, BLOCKS, PAGES, WANTED, SLOTS)


def profiles(
    inputs: Iterable[Port], shapes: ResolvedShapes, plan: TensorRtPlan, lora: Lora | None = None
) -> tuple[PlanProfile, ...]:
    """`prefill` and `decode`, in the order in which a plan numbers them."""
    batch, length = shapes.max_batch_size, shapes.max_sequence_length
    blocks = -(-length // shapes.kv_page_size)
    pages = POOL_SHARE * batch * blocks
    chunk = min(plan.prefill_chunk, length)
    wanted = min(WANTED_ROWS, chunk)
    usual_batch, usual_blocks, usual_pages = -(-batch // 2), -(-blocks // 4), -(-pages // 2)
    slots = 1 + (lora.max_adapters if lora else 0)
    ports = tuple(inputs)
    return (
        _profile(
            "prefill",
            ports,
            shapes.kv_page_size,
            (1, 1, 0, 1, 1, 1),
            (1, chunk, usual_blocks, usual_pages, 1, slots),
            (batch, chunk, blocks, pages, wanted, slots),
        ),
        _profile(
            "decode",
            ports,
            shapes.kv_page_size,
            (1, 1, 1, 1, 1, 1),
            (usual_batch, 1, usual_blocks, usual_pages, 1, slots),
            (batch, 1, blocks, pages, 1, slots),
        ),
    )


def _profile(
    name: str,
    ports: tuple[Port, ...],
    page: int,
    least: tuple[int, ...],
    usual: tuple[int, ...],
    most: tuple[int, ...],
) -> PlanProfile:
    """The sizes are those of `_SIZES`."""
    named = [
        with_products(dict(zip(_SIZES, sizes, strict=True)), page) for sizes in (least, usual, most)
    ]
    return PlanProfile(
        name=name,
        shapes={port.name: tuple(_shape(port, sizes) for sizes in named) for port in ports},
    )


def _shape(port: Port, sizes: Mapping[str, int]) -> tuple[int, ...]:
    assert port.shape is not None, f"input {port.name} has no shape"
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in port.shape)
