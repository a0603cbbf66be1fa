"""Contexts against the pages that they are copies of."""

import numpy as np
import pytest

from pitcrew_runtime.execution.contexts import STEP, Contexts, gathered
from pitcrew_runtime.execution.kv_pool import KVPool, PoolShape

PAGE, PAGES, ROWS = 4, 400, 5
SHAPE = PoolShape(2, PAGES, PAGE, 2, 3, "float32")
SHAPE_OF_TOKEN = (2, 3)


class Sequences:
    """Some that grow by a token in every step, join and leave; their pages hold numbers of noise."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pool = KVPool(SHAPE)
        for array in self.pool.arrays:
            array[:] = self.rng.standard_normal(array.shape)
        self.free = list(self.rng.permutation(PAGES).reshape(ROWS, -1))
        self.histories: list[list[int]] = []
        self.tables: list[np.ndarray] = []
        self.lengths: list[int] = []

    def join(self, length: int) -> None:
        self.histories.append([1])
        self.tables.append(self.free.pop())
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        self.free.append(self.tables[row])
        for column in (self.histories, self.tables, self.lengths):
            del column[row]

    def step(self, contexts: Contexts) -> None:
        """Check all contexts, and give every sequence a token."""
        lengths, tables = np.array(self.lengths), np.array(self.tables)
        order = contexts.arrange(self.histories, lengths, self.tables)
        truths = gathered(self.pool, self.tables, lengths, 1)
        assert sorted(order) == list(range(len(lengths)))
        for view, truth in zip(contexts.views(), truths, strict=True):
            for place, row in enumerate(order):
                length = lengths[row]
                np.testing.assert_array_equal(view[place, :, :length], truth[row, :, :length])
        places, ends = np.arange(len(order)), lengths[order]
        for view in contexts.views():
            new = self.rng.standard_normal((len(order), *SHAPE_OF_TOKEN))
            view[places, :, ends] = new
        contexts.grow()
        slots = tables[order, ends // PAGE] * PAGE + ends % PAGE
        self.pool.keep(slots, contexts.views(), places, ends)
        for pool, view in zip(self.pool.arrays, contexts.views(), strict=True):
            tokens = pool.reshape(-1, *SHAPE_OF_TOKEN)[slots]
            np.testing.assert_array_equal(tokens, view[places, :, ends])
        self.lengths = [length + 1 for length in self.lengths]


@pytest.mark.parametrize("seed", range(4))
def test_contexts_are_what_the_pages_hold(seed: int) -> None:
    sequences = Sequences(seed)
    contexts = Contexts(sequences.pool, SHAPE.nbytes)
    for _ in range(150):
        while not sequences.histories or (sequences.free and sequences.rng.random() < 0.2):
            sequences.join(int(sequences.rng.integers(0, 120)))
        sequences.step(contexts)
        for row in reversed(range(len(sequences.histories))):
            if sequences.rng.random() < 0.05 or sequences.lengths[row] > 300:
                sequences.leave(row)


def test_a_step_that_failed_is_taken_again() -> None:
    sequences = Sequences(0)
    contexts = Contexts(sequences.pool, SHAPE.nbytes)
    for length in (5, 70, 30):
        sequences.join(length)
    sequences.step(contexts)
    contexts.arrange(sequences.histories, np.array(sequences.lengths), sequences.tables)
    sequences.step(contexts)
    del sequences.histories[0], sequences.tables[0], sequences.lengths[0]
    sequences.step(contexts)


def test_contexts_of_one_shape_lie_in_one_place() -> None:
    sequences = Sequences(0)
    contexts = Contexts(sequences.pool, SHAPE.nbytes)
    sequences.join(5)
    sequences.step(contexts)
    first = contexts.views()
    sequences.join(70)
    sequences.step(contexts)
    sequences.leave(1)
    for _ in range(STEP):  # and back to the length that was right at first
        sequences.step(contexts)
    assert contexts.of_shape(*first.shape[1:4:2]).ctypes.data == first.ctypes.data
    assert contexts.views().ctypes.data == first.ctypes.data


def test_there_is_room_for_so_many_tokens_and_no_more() -> None:
    token = SHAPE.nbytes // (PAGES * PAGE)
    contexts = Contexts(KVPool(SHAPE), 3 * STEP * token)
    assert contexts.fits(3, STEP)
    assert contexts.fits(1, 3 * STEP)
    assert not contexts.fits(3, STEP + 1)
    assert not contexts.fits(4, 1)
