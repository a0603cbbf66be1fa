"""How the kernel for products is compiled and launched; all sizes follow from the matrix and the rows."""

from dataclasses import dataclass

from pitcrew_builder.targets.trt.baked import Size
from pitcrew_builder.targets.trt.nvrtc import FIRST_WITH_CLUSTERS, WITH_WARPGROUPS

ENTRY = "product"
SOURCE = "product.cu"
WARPS = 8
THREADS = 32 * WARPS
CHUNK = 8
"""Numbers that are read at once: a matrix has a multiple of them as inputs."""

OUTPUTS, DEEP = 32, 64
"""Of a block with few rows: its outputs, and the inputs that a warp takes at a time."""

MOST = 32
"""Rows of a block with few."""

TILE, STEP = 128, 32
"""Rows and outputs of a block with many rows, and the inputs of one of its steps."""

STAGES = 3
SHARED_BYTES = 48 << 10
"""What a kernel may have without asking, and an ahead-of-time plugin cannot ask for more."""

FEW = 128
"""Rows up to which the matrix is read straight from memory."""

MANY_BLOCKS = 264
"""Two for each processor of an H100: with fewer, several blocks share the inputs of a product."""

NARROW = 132
"""Tiles of many rows up to which they are halved, on GPUs with products of warpgroups: an H100's processors."""

TOGETHER = {1: 0, 2: 264, 4: 248, 8: 240}
"""Blocks that an H100 runs at once, by the size of their clusters: tiles of many rows that are left over from
such waves are shared by the blocks of a cluster. Blocks without a cluster share nothing.
"""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix [outputs, inputs] that rows are multiplied with, or `count` of them."""

    outputs: int
    inputs: int
    bfloat16: bool
    biased: bool = False
    count: int = 1

    def parts(self, capability: int) -> int:
        """Blocks that share the inputs, on GPUs of a generation such as 90: 1, 2, 4 or 8.

        Told by the matrix alone, so that a row's sums are added in one order in any batch.
        """
        if capability < FIRST_WITH_CLUSTERS:
            return 1
        blocks, parts = self.count * _parts_of(self.outputs, OUTPUTS), 1
        while (
            parts < 8 and 2 * parts * blocks <= MANY_BLOCKS and self.inputs > parts * WARPS * DEEP
        ):
            parts *= 2
        return parts

    def defines(self, capability: int) -> dict[str, object]:
        """What the source wants to be told."""
        parts = self.parts(capability)
        of_warpgroups = capability == WITH_WARPGROUPS
        return {
            "BFLOAT16": int(self.bfloat16),
            "BIASED": int(self.biased),
            "PARTS": parts,
            "CLUSTER": parts,
            "FEW": FEW,
            "STAGES": STAGES,
            "WGMMA": int(of_warpgroups),
            "NARROW": NARROW if of_warpgroups else 0,
            "TOGETHER": TOGETHER[parts] if of_warpgroups else 0,
        }

    def grid(self, rows: Size, capability: int) -> Size:
        """Blocks for so many rows (of each, where there are several matrices)."""
        parts = self.parts(capability)
        few = rows < FEW + 1
        # TensorRT's expressions stand on the left of an operator only.
        narrow = self.count * _parts_of(self.outputs, OUTPUTS)
        of_few = (rows + MOST - 1) // MOST * (narrow * parts)
        tiles = (
            self._tiles(rows, parts) if capability == WITH_WARPGROUPS else self._wide_tiles(rows)
        )
        of_many = (tiles + parts - 1) // parts * parts
        return few * (of_few - of_many) + of_many

    def _wide_tiles(self, rows: Size) -> Size:
        return (rows + TILE - 1) // TILE * (self.count * _parts_of(self.outputs, TILE))

    def _tiles(self, rows: Size, parts: int) -> Size:
        """Of many rows, for products of warpgroups; one that is shared counts for each of its blocks."""
        wide, narrow = (self.count * _parts_of(self.outputs, width) for width in (TILE, TILE // 2))
        is_narrow = self._wide_tiles(rows) < NARROW + 1
        tiles = (rows + TILE - 1) // TILE * (is_narrow * (narrow - wide) + wide)
        together = TOGETHER[parts]
        if not together:
            return tiles
        left = tiles - tiles // together * together
        return tiles + (left < together // parts + 1) * left * (parts - 1)


def _parts_of(whole: int, part: int) -> int:
    return -(-whole // part)


def is_served(inputs: int) -> bool:
    """Whether the kernel knows matrices of so many inputs."""
    return inputs % CHUNK == 0
