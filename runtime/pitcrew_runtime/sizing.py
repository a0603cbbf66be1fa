"""How much memory pages may have: arithmetic alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.manifest import Manifest, size_text
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.errors import NotEnoughMemory

logger = logging.getLogger(__name__)

FREE_MEMORY_FRACTION = 0.8
SMALL_CONTEXTS = 32 << 20
"""Bytes that contexts may have beside the smallest pool: they are of one length, pages are not."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for KV pages in one place: a pod's, or a GPU's."""

    bytes_per_token: int
    """Of the ranks that share it."""
    free: int
    """Bytes."""


def rooms_of(manifest: Manifest, free: Sequence[int], ranks_each: int) -> list[Room]:
    """The places of a split engine, where each holds so many ranks; `free` bytes by rank."""
    places = [rank.placement for rank in manifest.ranks]
    heads = [place.layers * place.kv_heads if place else 0 for place in places]
    return [
        Room(
            manifest.kv_bytes_per_token * sum(heads[first : first + ranks_each]) // sum(heads),
            min(free[first : first + ranks_each]),
        )
        for first in range(0, len(heads), ranks_each)
    ]


def pool_pages(bytes_per_token: int, limits: Limits, wanted: int | None, free: int) -> int:
    """Pages of the KV pool, whose tokens take so many bytes each.

    `wanted` bytes where given, else 0.8 of the `free` bytes; never more than a full batch of
    longest sequences can use. Raises `NotEnoughMemory` where that is not one page, or where
    `wanted` is more than is free.
    """
    page_bytes = limits.page_size * bytes_per_token
    useful = limits.max_running * limits.pages_for(limits.max_sequence_length)
    budget = int(free * FREE_MEMORY_FRACTION) if wanted is None else wanted
    if wanted is not None and min(wanted, useful * page_bytes) > free:
        raise NotEnoughMemory(
            f"--kv-memory {wanted}: only {free} bytes are free; lower it or raise the memory limit"
        )
    pages = min(useful, budget // page_bytes)
    if pages < 1:
        raise NotEnoughMemory(
            f"a KV page takes {size_text(page_bytes)}, but the pool may have {size_text(budget)}; "
            "raise kvMemory (--kv-memory) or the memory limit"
        )
    return pages


def context_bytes(pool: int, free: int) -> int:
    """Bytes for contexts beside a pool of so many: as many again, or a few where that is little, as
    long as both are 0.8 of what is free.
    """
    return max(0, min(max(pool, SMALL_CONTEXTS), int(free * FREE_MEMORY_FRACTION) - pool))


def within_pool(limits: Limits, pages: int) -> Limits:
    """A sequence cannot be longer than the pool: say so to clients instead of starving them."""
    longest = min(limits.max_sequence_length, pages * limits.page_size)
    if longest < limits.max_sequence_length:
        logger.warning(
            "The KV pool holds %d tokens, fewer than the engine's longest sequence (%d): longer "
            "requests are refused; raise --kv-memory to serve them",
            longest,
            limits.max_sequence_length,
        )
    return replace(limits, max_sequence_length=longest)
