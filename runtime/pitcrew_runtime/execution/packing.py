"""The graph's small inputs of a step, from rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import ADAPTER_SLOTS
from pitcrew_runtime.core.batch import Row

Integers = NDArray[np.int64]

BLOCK_TABLES = "block_tables"
INPUTS = ("input_ids", "positions", BLOCK_TABLES, "context_lengths", "logit_indices")
"""What every network is given; where it takes adapters, their slots too."""


class Packed(NamedTuple):
    """What one run of the graph is given, and where its new keys and values belong."""

    inputs: dict[str, Integers]
    slots: Integers
    """[N]: the places in the pools of the N new tokens, page x page size + offset."""
    take: Integers
    """[N]: where these tokens are among the [B x S] of the run."""
    histories: Sequence[Sequence[int]] = ()
    """Of the rows: an object for each sequence, the same in every run. Stays in this process."""


def pack(rows: Sequence[Row], page_size: int) -> Packed:
    """Lay rows side by side.

    Rows are padded on the right with token 0 at position 0. A block table lists the pages with
    context only; entries beyond a row's own are page 0, which the mask hides. A row's wanted logits
    are those of its last known token and of the guesses after it; where other rows have more, its
    last one is repeated.
    """
    batch, length = len(rows), max(len(row.tokens) for row in rows)
    width = max(-(-row.start // page_size) for row in rows)
    wanted = 1 + max(row.drafts for row in rows)
    ids = np.zeros((batch, length), np.int64)
    positions = np.zeros((batch, length), np.int64)
    tables = np.zeros((batch, width), np.int64)
    indices = np.zeros((batch, wanted), np.int64)
    slots, take = [], []
    for index, row in enumerate(rows):
        count = len(row.tokens)
        places = np.arange(row.start, row.end)
        first = row.start // page_size
        written = np.asarray(row.pages[first : -(-row.end // page_size)], np.int64)
        ids[index, :count] = row.tokens
        positions[index, :count] = places
        used = row.pages[: -(-row.start // page_size)]
        tables[index, : len(used)] = used
        indices[index] = np.minimum(np.arange(wanted) + count - 1 - row.drafts, count - 1)
        slots.append(written[places // page_size - first] * page_size + places % page_size)
        take.append(np.arange(index * length, index * length + count))
    inputs = {
        "input_ids": ids,
        "positions": positions,
        BLOCK_TABLES: tables,
        "context_lengths": np.asarray([row.start for row in rows], np.int64),
        "logit_indices": indices,
        ADAPTER_SLOTS: np.asarray([row.slot for row in rows], np.int64),
    }
    histories = [row.history for row in rows]
    return Packed(inputs, np.concatenate(slots), np.concatenate(take), histories)
