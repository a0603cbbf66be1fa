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
    """Without block tables, which grow with the contexts and not every network reads; a rank is sent
    them, and no pages."""
    slots: Integers
    """[N]: the places in the pools of the N new tokens, page x page size + offset."""
    take: Integers
    """[N]: where these tokens are among the [B x S] of the run."""
    histories: Sequence[Sequence[int]] = ()
    """Of the rows: an object for each sequence, the same in every run. Stays in this process."""
    pages: Sequence[Sequence[int]] = ()
    """Of the rows, in token order; more than the context's at the end."""


def pack(rows: Sequence[Row], page_size: int, short_first: int = 0) -> Packed:
    """Lay rows side by side.

    `short_first` stands for position 0 in rows of texts that are not long. Rows are padded on the
    right with token 0 at that position. A row's wanted logits are those of its
    last known token and of the guesses after it; where other rows have more, its last one is
    repeated.
    """
    inputs, slots, take = (_single if _are_single(rows) else _several)(rows, page_size)
    if short_first:
        inputs["positions"] += np.array([(0 if row.long else short_first,) for row in rows])
    inputs["context_lengths"] = np.array([row.start for row in rows], np.int64)
    inputs[ADAPTER_SLOTS] = np.array([row.slot for row in rows], np.int64)
    return Packed(inputs, slots, take, [row.history for row in rows], [row.pages for row in rows])


def with_block_tables(packed: Packed, page_size: int) -> Packed:
    """The same with tables [B, P] of the pages with context; entries beyond a row's own are page 0,
    which the mask hides.
    """
    lengths = packed.inputs["context_lengths"]
    tables = np.zeros((len(lengths), -(-int(lengths.max()) // page_size)), np.int64)
    write_block_tables(packed, page_size, tables)
    return packed._replace(inputs={**packed.inputs, BLOCK_TABLES: tables})


def write_block_tables(packed: Packed, page_size: int, tables: Integers) -> None:
    """Write the pages with context to the beginnings of rows of zeros [B or more, P or more]."""
    counts = (-(-packed.inputs["context_lengths"] // page_size)).tolist()
    for table, pages, count in zip(tables, packed.pages, counts, strict=False):
        table[:count] = pages[:count]


def _are_single(rows: Sequence[Row]) -> bool:
    return all(len(row.tokens) == 1 for row in rows)


def _single(rows: Sequence[Row], page_size: int) -> tuple[dict[str, Integers], Integers, Integers]:
    """Of rows with one token each, which most steps consist of."""
    inputs = {
        "input_ids": np.array([row.tokens for row in rows], np.int64),
        "positions": np.array([(row.start,) for row in rows], np.int64),
        "logit_indices": np.zeros((len(rows), 1), np.int64),
    }
    places = ((row.pages[row.start // page_size], row.start % page_size) for row in rows)
    slots = np.array([page * page_size + offset for page, offset in places], np.int64)
    return inputs, slots, np.arange(len(rows))


def _several(rows: Sequence[Row], page_size: int) -> tuple[dict[str, Integers], Integers, Integers]:
    batch, length = len(rows), max(len(row.tokens) for row in rows)
    wanted = 1 + max(row.drafts for row in rows)
    ids = np.zeros((batch, length), np.int64)
    positions = np.zeros((batch, length), np.int64)
    indices = np.zeros((batch, wanted), np.int64)
    slots, take = [], []
    for index, row in enumerate(rows):
        count = len(row.tokens)
        places = np.arange(row.start, row.end)
        first = row.start // page_size
        written = np.asarray(row.pages[first : -(-row.end // page_size)], np.int64)
        ids[index, :count] = row.tokens
        positions[index, :count] = places
        indices[index] = np.minimum(np.arange(wanted) + count - 1 - row.drafts, count - 1)
        slots.append(written[places // page_size - first] * page_size + places % page_size)
        take.append(np.arange(index * length, index * length + count))
    inputs = {"input_ids": ids, "positions": positions, "logit_indices": indices}
    return inputs, np.concatenate(slots), np.concatenate(take)
