"""The small inputs of a run, side by side, so that one copy brings all of them to the GPU.

Rows and tokens that are nobody's, where a shape has been rounded up, are token 0 without context, and
write nowhere.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.execution.gpu.shapes import ITEM, Shape, aligned
from pitcrew_runtime.execution.packing import BLOCK_TABLES, Packed, write_block_tables

Integers = NDArray[np.int64]

SLOTS = "slots"
"""Beside the plan's inputs: int64 [B x S], each token's place in the pools; negative: nowhere."""

NOWHERE = -1


class Place(NamedTuple):
    """Of a tensor in the arena."""

    offset: int
    """Bytes."""
    shape: tuple[int, ...]


@cache
def layout(shape: Shape) -> tuple[Mapping[str, Place], int]:
    """Where each small input and the slots lie, one after the other; the bytes of all."""
    places, end = {}, 0
    for name, dims in (*shape.inputs.items(), (SLOTS, (shape.batch * shape.new,))):
        places[name] = Place(end, dims)
        end += aligned(math.prod(dims) * ITEM)
    return places, end


class Arena:
    """Memory [bytes / 8] where the small inputs of a run are written as `layout` says.

    What is written to is looked up by shape: to make it anew takes longer than to write.
    """

    def __init__(self, words: Integers, page_size: int) -> None:
        self.words = words
        self._page_size = page_size
        self._views: dict[Shape, Mapping[str, Integers]] = {}

    def fill(self, packed: Packed, shape: Shape) -> None:
        """Write the inputs of a run, which fits into the shape."""
        views = self._views.get(shape)
        if views is None:
            places, _ = layout(shape)
            views = self._views[shape] = {name: self._view(each) for name, each in places.items()}
        batch, new = packed.inputs["input_ids"].shape
        for name in ("input_ids", "positions"):
            _put(views[name], packed.inputs[name], (batch, new))
        for name in ("context_lengths", "logit_indices"):
            _put(views[name], packed.inputs[name], (batch,))
        given = packed.inputs.get(BLOCK_TABLES)
        if given is not None:
            _put(views[BLOCK_TABLES], given, given.shape)
        else:
            views[BLOCK_TABLES][:] = 0
            write_block_tables(packed, self._page_size, views[BLOCK_TABLES])
        slots = views[SLOTS]
        slots[:] = NOWHERE
        # The run's tokens are counted by its own width.
        take = packed.take if new == shape.new else _counted(packed.take, new, shape.new)
        slots[take] = packed.slots

    def _view(self, place: Place) -> Integers:
        start = place.offset // ITEM
        return self.words[start : start + math.prod(place.shape)].reshape(place.shape)


def _put(view: Integers, values: Integers, own: tuple[int, ...]) -> None:
    if view.shape[: len(own)] == own:
        view[:] = values
        return
    view[:] = 0
    view[tuple(map(slice, own))] = values


def _counted(take: Integers, width: int, wider: int) -> Integers:
    row, place = np.divmod(take, width)
    return row * wider + place
