from dataclasses import replace

import numpy as np

from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.request import GREEDY
from pitcrew_runtime.execution.grouping import group
from pitcrew_runtime.execution.packing import pack, with_block_tables


def row(start: int, tokens: list[int], pages: list[int]) -> Row:
    return Row(0, tokens, start, pages, GREEDY)


def lengths(*counts: int) -> list[list[int]]:
    rows = [row(0, [1] * count, list(range(9))) for count in counts]
    return [[counts[index] for index in one] for one in group(rows)]


def test_decoding_rows_run_together_and_prompts_by_length() -> None:
    assert lengths(1, 40, 1, 45, 9, 1, 300) == [[1, 1, 1], [9], [40, 45], [300]]
    assert lengths() == []


def test_rows_are_padded_and_slots_are_where_the_pages_say() -> None:
    rows = [row(5, [7, 8, 9], [3, 1]), row(0, [4], [2])]
    packed = pack(rows, page_size=4)
    inputs, slots, take, histories, _ = with_block_tables(packed, page_size=4)
    assert inputs["input_ids"].tolist() == [[7, 8, 9], [4, 0, 0]]
    assert inputs["positions"].tolist() == [[5, 6, 7], [0, 0, 0]]
    assert inputs["context_lengths"].tolist() == [5, 0]
    assert inputs["logit_indices"].tolist() == [[2], [0]]
    assert inputs["block_tables"].tolist() == [[3, 1], [0, 0]]
    assert slots.tolist() == [1 * 4 + 1, 1 * 4 + 2, 1 * 4 + 3, 2 * 4]
    assert take.tolist() == [0, 1, 2, 3]
    assert histories == [one.history for one in rows]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.int64)}


def test_a_first_prefill_has_no_block_table() -> None:
    packed = pack([row(0, [1, 2, 3, 4, 5], [6, 0])], page_size=4)
    inputs, slots, *_ = with_block_tables(packed, page_size=4)
    assert inputs["block_tables"].shape == (1, 0)
    assert slots.tolist() == [24, 25, 26, 27, 0]


def test_rows_of_one_token_are_packed_as_those_of_several_are() -> None:
    rows = [row(5, [7], [3, 1]), row(0, [4], [2]), row(8, [6], [0, 5, 4])]
    alone = with_block_tables(pack(rows, page_size=4), page_size=4)
    longer = [*rows, row(0, [1, 1], [9])]
    beside = with_block_tables(pack(longer, page_size=4), page_size=4)
    for name, array in alone.inputs.items():
        columns = array.shape[1:] and (slice(None), slice(array.shape[1]))
        assert (array == beside.inputs[name][:3][columns or ...]).all(), name
    assert alone.slots.tolist() == beside.slots[:3].tolist() == [5, 8, 16]
    assert (alone.take.tolist(), beside.take[:3].tolist()) == ([0, 1, 2], [0, 2, 4])


def test_positions_of_short_texts_begin_where_the_engine_says() -> None:
    long = replace(row(5, [7, 8], [3, 1]), long=True)
    several = pack([row(5, [7, 8], [3, 1]), long, row(0, [4], [2])], 4, short_first=100)
    assert several.inputs["positions"].tolist() == [[105, 106], [5, 6], [100, 100]]
    single = pack([row(5, [7], [3, 1]), replace(long, tokens=[7])], 4, short_first=100)
    assert single.inputs["positions"].tolist() == [[105], [5]]
    assert single.inputs["context_lengths"].tolist() == [5, 5]
