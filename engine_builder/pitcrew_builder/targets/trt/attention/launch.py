"""How the attention kernel is compiled and launched; all sizes follow from the heads and the batch."""

import math
from dataclasses import dataclass

from pitcrew_builder.targets.trt.baked import Size
from pitcrew_builder.targets.trt.nvrtc import FIRST_WITH_CLUSTERS

ENTRY = "paged_attention"
SOURCE = "paged_attention.cu"
ROWS = 16
"""Of a tile, as of the tensor cores' products."""

LARGEST_HEAD = 256
STAGES = 3
SHARED_BYTES = 48 << 10
"""What a kernel may have without asking, and an ahead-of-time plugin cannot ask for more."""

FEW, MANY = 33, 129
"""Units of work under which eight or four blocks share one; measured on an H100 (132 processors)."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How a layer attends."""

    heads: int
    kv_heads: int
    head_dim: int
    page: int
    bfloat16: bool
    capped: bool = False
    sinks: bool = False

    @property
    def scale(self) -> float:
        """Of the products of queries and keys."""
        return usual_scale(self.head_dim)

    @property
    def warps(self) -> int:
        """Of a block: as many as the memory of their stages allows, four at most."""
        stage = 2 * ROWS * self.head_dim * 2
        return max(1, min(4, SHARED_BYTES // (STAGES * stage)))

    @property
    def prefill_rows(self) -> int:
        """Rows of a sequence from which on a block takes a row tile for each warp."""
        return 2 * ROWS * self.warps

    def defines(self, capability: int) -> dict[str, object]:
        """What the source wants to be told, for GPUs of a generation such as 90."""
        return {
            "BFLOAT16": int(self.bfloat16),
            "CAPPED": int(self.capped),
            "SINKS": int(self.sinks),
            "HEADS": self.heads,
            "KV_HEADS": self.kv_heads,
            "HEAD_DIM": self.head_dim,
            "PAGE": self.page,
            "SCALE": f"{self.scale!r}f",
            "WARPS": self.warps,
            "STAGES": STAGES,
            "CLUSTER": cluster(capability),
            "PREFILL_ROWS": self.prefill_rows,
        }

    def launch(self, batch: Size, new_tokens: Size, capability: int) -> "Launch":
        """For `batch` sequences with `new_tokens` each."""
        together = cluster(capability)
        rows = new_tokens * (self.heads // self.kv_heads)
        few = rows < self.prefill_rows
        # TensorRT's expressions stand on the left of an operator only.
        tile = few * (ROWS - ROWS * self.warps) + ROWS * self.warps
        units = batch * ((rows + tile - 1) // tile) * self.kv_heads
        # Few units would leave multiprocessors idle: several blocks share one.
        parts = few * ((units < MANY) * 3 + (units < FEW) * 4) * int(together > 1) + 1
        grid = (units * parts + (together - 1)) // together * together
        return Launch(units, parts, grid, 32 * self.warps)


@dataclass(frozen=True, slots=True)
class Launch:
    """What one call of the kernel consists of."""

    units: Size
    """Of work: row tiles of all heads of keys of all sequences."""
    parts: Size
    """Blocks that share a unit."""
    grid: Size
    """Blocks."""
    threads: int
    """Of a block."""


def usual_scale(head_dim: int) -> float:
    """One by the root of the heads' size (Vaswani and others, 2017)."""
    return float(head_dim**-0.5)


def is_served(head_dim: int, scale: float | None) -> bool:
    """Whether the kernel knows heads of that size and scale; None stands for a scale it is given."""
    known = head_dim % ROWS == 0 and ROWS <= head_dim <= LARGEST_HEAD
    is_usual = scale is None or math.isclose(scale, usual_scale(head_dim), rel_tol=1e-6)
    return known and is_usual


def cluster(capability: int) -> int:
    """Blocks that can join their results, on GPUs of a generation such as 90."""
    return 8 if capability >= FIRST_WITH_CLUSTERS else 1
