"""Where the values lie that the plans of a rank pass on: arithmetic alone.

A value lives from the plan or exchange that makes it to the last one that reads it. Values that do not live
together share memory, so many layers need no more of it than a few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pitcrew_builder.manifest import PassedValue, SegmentFile
from pitcrew_runtime.execution.gpu.shapes import Bounds, Capacity, Shape, aligned

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int8": 1}
"""Of an element."""


@dataclass(frozen=True, slots=True)
class Life:
    """Of one value, in turns: segment i has turn 2 i, the exchanges after it have the next one."""

    name: str
    begin: int
    end: int
    """The last turn in which it is read."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Memory of `nbytes`, and where each value begins in it."""

    offsets: Mapping[str, int]
    nbytes: int


def sizes_of(shape: Shape, page_size: int) -> dict[str, int]:
    """What the words in shapes of passed values stand for in a run."""
    return {
        "batch": shape.batch,
        "new": shape.new,
        "blocks": shape.blocks,
        "wanted": shape.wanted,
        "rows": shape.batch * shape.new,
        "wanted_rows": shape.batch * shape.wanted,
        "seen": shape.blocks * page_size + shape.new,
    }


def dims_of(value: PassedValue, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a value in a run."""
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in value.shape)


def most_bytes(value: PassedValue, capacity: Capacity, bounds: Bounds, page_size: int) -> int:
    """Of a value in any run: rows and their tokens are bounded together, not each by itself."""
    most = {
        "rows": capacity.tokens,
        "wanted_rows": capacity.logits,
        "seen": bounds.blocks * page_size + bounds.new,
        "blocks": bounds.blocks,
        "wanted": bounds.wanted,
        "batch": bounds.batch,
        "new": bounds.new,
    }
    size, dims = BYTES[value.type], list(value.shape)
    if "batch" in dims and "new" in dims:
        dims.remove("batch")
        dims[dims.index("new")] = "rows"
    for dim in dims:
        size *= dim if isinstance(dim, int) else most[dim]
    return size


def lives(segments: Sequence[SegmentFile], reads: Sequence[frozenset[str]],
          makes: Sequence[frozenset[str]]) -> list[Life]:  # fmt: skip
    """Of all values that segments make, or exchanges between them; `reads` and `makes` are by segment."""
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    for index, segment in enumerate(segments):
        turn = 2 * index
        ends |= dict.fromkeys(reads[index], turn)
        begins |= dict.fromkeys(makes[index], turn)
        for exchange in segment.exchanges:
            ends[exchange.value] = begins[exchange.result] = turn + 1
    return [Life(name, begin, max(begin, ends.get(name, 0))) for name, begin in begins.items()]


def lay_out(living: Sequence[Life], nbytes: Mapping[str, int]) -> Layout:
    """Places for values, the longest-lived and largest first, each as low as its companions allow."""
    placed: list[tuple[Life, int, int]] = []
    offsets: dict[str, int] = {}
    for life in sorted(living, key=lambda one: (one.begin - one.end, -nbytes[one.name], one.begin)):
        size, offset = aligned(nbytes[life.name]), 0
        companions = sorted(
            (start, end)
            for other, start, end in placed
            if other.begin <= life.end and life.begin <= other.end
        )
        for start, end in companions:
            if offset + size <= start:
                break
            offset = max(offset, end)
        placed.append((life, offset, offset + size))
        offsets[life.name] = offset
    return Layout(offsets, max((end for _, _, end in placed), default=0))
