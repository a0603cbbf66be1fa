"""How the kernel for norms is compiled and launched."""

from dataclasses import dataclass

from pitcrew_builder.targets.trt.baked import Size

ENTRY = "rms_norm"
SOURCE = "rms_norm.cu"
THREADS = 256
CHUNK = 8
"""Numbers that are read at once."""

NARROW = 1024
"""Width up to which a warp does a row; wider ones take a block."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one width."""

    width: int
    bfloat16: bool

    @property
    def lanes(self) -> int:
        """Threads of a row."""
        return 32 if self.width <= NARROW else THREADS

    def defines(self) -> dict[str, object]:
        """What the source wants to be told."""
        return {
            "BFLOAT16": int(self.bfloat16),
            "CLUSTER": 1,
            "WIDTH": self.width,
            "LANES": self.lanes,
        }

    def grid(self, rows: Size) -> Size:
        """Blocks for so many rows."""
        each = THREADS // self.lanes
        return (rows + each - 1) // each


def is_served(width: int) -> bool:
    """Whether the kernel knows rows of that width."""
    return width % CHUNK == 0
