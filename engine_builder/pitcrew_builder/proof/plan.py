"""What is measured: which batch sizes and which capacities of the page table."""

from dataclasses import dataclass
from itertools import takewhile

from pitcrew_builder.manifest import ResolvedShapes

STEP = 4
LOGITS_BUDGET = 64 << 20
"""Elements of logits held at once, for the reference and the engine each."""


@dataclass(frozen=True, slots=True)
class Case:
    """One shape that the engine is run in."""

    batch: int
    """Sequences of one step."""
    capacity: int
    """Tokens that the page table has room for, a multiple of the page."""


def cases(shapes: ResolvedShapes, width: int) -> tuple[Case, ...]:
    """Every batch bucket over a table that just holds `width` tokens; one sequence over the rest.

    Buckets and capacities grow fourfold and end with the engine's own limits.
    """
    page = shapes.kv_page_size
    least = -(-width // page) * page
    most = max(least, -(-shapes.max_sequence_length // page) * page)
    batches = [Case(batch, least) for batch in _ladder(1, shapes.max_batch_size)]
    return (*batches, *(Case(1, size // page * page) for size in _ladder(least, most)[1:]))


def chunk(rows: int, width: int, vocabulary: int) -> int:
    """Tokens of each row that are computed at once, at least 1.

    Half the width at most: the second half must find the first one in its pages.
    """
    return max(1, min(-(-width // 2), LOGITS_BUDGET // (rows * vocabulary)))


def _ladder(least: int, most: int) -> list[int]:
    powers = takewhile(lambda value: value < most, (least * STEP**n for n in range(32)))
    return [*powers, most]
