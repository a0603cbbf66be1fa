"""Who may look at whom, as numbers to add to scores. Built once, for all layers of a kind."""

from collections.abc import Iterable
from dataclasses import dataclass

from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value

MASKED = -1e30
"""Added to a forbidden score. Finite, so that no row turns to NaN; its exponential is exactly 0."""


@dataclass(frozen=True, slots=True)
class _Extents:
    """Vectors of one element, and the context lengths as [B, 1, 1, 1]."""

    batch: Value
    new: Value
    capacity: Value
    lengths: Value


def additive_masks(
    e: Emitter,
    input_ids: Value,
    block_tables: Value,
    context_lengths: Value,
    page: int,
    windows: Iterable[int | None],
) -> dict[int | None, Value]:
    """By window: 0 where a new token may look, `MASKED` where not, [B, 1, S, P * page + S].

    A window of w tokens shows a token itself and the w - 1 before it.
    """
    blocks = e.op("Shape", block_tables, name="blocks", start=1, end=2)
    extents = _Extents(
        batch=e.op("Shape", input_ids, name="batch", start=0, end=1),
        new=e.op("Shape", input_ids, name="new", start=1, end=2),
        capacity=e.op("Mul", blocks, e.ints(page), name="capacity"),
        lengths=e.op("Unsqueeze", context_lengths, e.ints(1, 2, 3)),
    )
    return {window: _mask(e, extents, window) for window in windows}


def _mask(e: Emitter, extents: _Extents, window: int | None) -> Value:
    batch, new, capacity, one = extents.batch, extents.new, extents.capacity, e.ints(1)
    past, causal = _past_mask(e, extents, window), _causal_mask(e, new, window)
    past = e.op("Expand", past, e.op("Concat", batch, one, new, capacity, axis=0), name="past")
    causal = e.op("Expand", causal, e.op("Concat", batch, one, new, new, axis=0), name="causal")
    return e.op("Concat", past, causal, name="mask", axis=3)


def _range(e: Emitter, length: Value) -> Value:
    """0 to length - 1; `length` is a vector of one element."""
    scalar = e.op("Squeeze", length)
    return e.op("Range", e.int(0), scalar, e.int(1))


def _past_mask(e: Emitter, extents: _Extents, window: int | None) -> Value:
    """[B, 1, 1 or S, capacity]: a slot counts while it lies in its sequence's context and window."""
    slots = _range(e, extents.capacity)
    inside = e.op("Less", slots, extents.lengths)
    if window is not None:
        asking = e.op("Add", _column(e, extents.new), extents.lengths, name="asking")
        age = e.op("Sub", asking, slots, name="age")
        inside = e.op("And", inside, e.op("Less", age, e.int(window)))
    return e.op("Where", inside, e.float(0.0), e.float(MASKED))


def _causal_mask(e: Emitter, new: Value, window: int | None) -> Value:
    """[S, S]: a new token sees itself and, within its window, the new tokens before it."""
    index = _range(e, new)
    asking = e.op("Unsqueeze", index, e.ints(1))
    seen = e.op("LessOrEqual", index, asking)
    if window is not None:
        near = e.op("Less", e.op("Sub", asking, index), e.int(window))
        seen = e.op("And", seen, near)
    return e.op("Where", seen, e.float(0.0), e.float(MASKED))


def _column(e: Emitter, new: Value) -> Value:
    """0 to S - 1, as [S, 1]."""
    return e.op("Unsqueeze", _range(e, new), e.ints(1))
