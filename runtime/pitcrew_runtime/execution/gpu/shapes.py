"""The shapes that a plan is run with: arithmetic alone.

B sequences, S new tokens of each, P block-table entries, K positions whose logits are wanted, as in
`manifest.GraphInterface`. Runs are replayed from CUDA graphs, which are of one shape each. So B, S and P
are rounded up: P to powers of two, and B too where rows are decoding (S = 1), which cost little; else B
and S to four steps from one power of two to the next, which is a quarter of padding at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.execution.grouping import PADDING_TOLERATED
from pitcrew_runtime.execution.packing import BLOCK_TABLES, Packed

Integers = NDArray[np.int64]

STEP = 1.25
"""What `stepped` makes of a number at most, times it."""

ALIGNMENT = 256
"""Bytes, of every tensor's address."""

ITEM = np.dtype(np.int64).itemsize


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest shapes of a plan."""

    batch: int
    new: int
    """Tokens of a row of a prompt."""
    blocks: int
    wanted: int
    """Positions of a row, where it is not decoding."""


def bounds_of(manifest: Manifest) -> Bounds | None:
    """Those that an engine's plan was compiled for; None where it is no plan."""
    report = manifest.ranks[0].plan
    if report is None:
        return None
    most = {name: shapes[2] for name, shapes in report.profiles[0].shapes.items()}
    batch, new = most["input_ids"]
    return Bounds(batch, new, most[BLOCK_TABLES][1], most["logit_indices"][1])


class Shape(NamedTuple):
    """Of one run."""

    batch: int
    new: int
    blocks: int
    wanted: int

    @classmethod
    def of(cls, inputs: Mapping[str, tuple[int, ...]]) -> "Shape":
        """The one whose `inputs` these are."""
        batch, new = inputs["input_ids"]
        return cls(batch, new, inputs[BLOCK_TABLES][1], inputs["logit_indices"][1])

    @property
    def decodes(self) -> bool:
        """Whether the profile for decoding computes it."""
        return self.new == 1

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """Of the plan's small inputs."""
        return {
            "input_ids": (self.batch, self.new),
            "positions": (self.batch, self.new),
            BLOCK_TABLES: (self.batch, self.blocks),
            "context_lengths": (self.batch,),
            "logit_indices": (self.batch, self.wanted),
        }


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the largest run that a scheduler asks for needs."""

    tokens: int
    """B x S."""
    logits: int
    """B x K."""
    arena: int
    """Bytes of all small inputs."""

    @classmethod
    def of(cls, limits: Limits, bounds: Bounds) -> "Capacity":
        """Within `limits`; `grouping` says how much of a run may be padding before it is rounded. A
        draft engine is given one token more of each sequence.
        """
        decoding = doubled(limits.max_running, bounds.batch)
        extra = limits.max_running * (1 + limits.lookahead)
        tokens = int((limits.max_step_tokens + extra) * (1 + PADDING_TOLERATED) * STEP**2)
        logits = max(decoding, int(extra * STEP), bounds.wanted)
        items = 3 * tokens + decoding * (bounds.blocks + 1) + logits
        return cls(tokens, logits, items * ITEM + 6 * ALIGNMENT)

    def check(self, shape: "Shape") -> None:
        """Raise `ValueError` where a run needs more."""
        if shape.batch * shape.new > self.tokens or shape.batch * shape.wanted > self.logits:
            raise ValueError(f"a run of {shape} needs more than {self}")


def aligned(nbytes: int) -> int:
    """Rounded up to where the next tensor may begin."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def doubled(count: int, most: int) -> int:
    """The least power of two from `count` on, but at most `most`."""
    return min(most, 1 << (max(1, count) - 1).bit_length())


def stepped(count: int, most: int) -> int:
    """The least of 1 to 8, 10, 12, 14, 16, 20, ... from `count` on, but at most `most`."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return min(most, -(-count // step) * step)


def shape_of(packed: Packed, page_size: int, bounds: Bounds) -> Shape:
    """The shape to run it with, which has room for it."""
    batch, new = packed.inputs["input_ids"].shape
    blocks = -(-int(packed.inputs["context_lengths"].max()) // page_size)
    if new == 1:
        return Shape(doubled(batch, bounds.batch), 1, doubled(blocks, bounds.blocks), 1)
    wanted = packed.inputs["logit_indices"].shape[1]
    known = doubled(blocks, bounds.blocks) if blocks else 0
    return Shape(stepped(batch, bounds.batch), stepped(new, bounds.new), known, wanted)


def usual_shapes(limits: Limits, bounds: Bounds) -> list[Shape]:
    """Those that a server meets in any case: all of decoding, and prompts alone and from their begin."""
    rows = {doubled(count, bounds.batch) for count in range(1, limits.max_running + 1)}
    blocks = {doubled(count, bounds.blocks) for count in range(1, bounds.blocks + 1)}
    longest = min(bounds.new, limits.max_step_tokens, limits.max_sequence_length)
    news = {stepped(count, bounds.new) for count in range(2, longest + 1)}
    decoding = [Shape(batch, 1, known, 1) for batch in sorted(rows) for known in sorted(blocks)]
    return [*decoding, *(Shape(1, new, 0, 1) for new in sorted(news))]


def nobodys(shape: Shape, page_size: int) -> Packed:
    """A run of that shape which writes nowhere."""
    inputs = {
        name: np.zeros(dims, np.int64)
        for name, dims in shape.inputs.items()
        if name != BLOCK_TABLES
    }
    inputs["context_lengths"] += shape.blocks * page_size
    none = np.zeros(0, np.int64)
    return Packed(inputs, none, none, pages=[[0] * shape.blocks] * shape.batch)
