"""Copies of the pages of decoding sequences, each sequence's side by side, kept from step to step.

Pages stay the truth: a context is filled from them, grows with what is written to them, and can be
dropped at any time. Context i belongs to the i-th row of a run, so rows are put in the order of the
contexts that there are: when sequences end, the last ones move into their places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.errors import NotEnoughMemory
from pitcrew_runtime.execution.kv_pool import KVPool
from pitcrew_runtime.execution.memory import resident_zeros

Array = NDArray[Any]
Integers = NDArray[np.int64]

STEP = 64
"""Tokens that all contexts grow by at once; each time, everything moves."""


@dataclass(slots=True)
class _Tenant:
    """Whose context it is, and the tokens in it."""

    history: object
    """The sequence's list of tokens: as long as it is held here, no other object is the same."""
    start: int
    """Of the last run."""
    end: int


_NOBODY = _Tenant(None, 0, 0)


class Contexts:
    """Room for contexts of `budget` bytes over all layers."""

    def __init__(self, pool: KVPool, budget: int) -> None:
        self._pool = pool
        shape = pool.shape
        self._token = shape.kv_heads * shape.head_dim
        self._room = budget // (len(pool.arrays) * shape.dtype.itemsize)
        try:
            self._flat = resident_zeros((len(pool.arrays), self._room), shape.dtype)
        except MemoryError as error:
            raise NotEnoughMemory(
                f"contexts of {budget} bytes could not be allocated: lower --kv-memory"
            ) from error
        self._tenants: list[_Tenant] = []
        self._length = 0
        self._order: Integers = np.arange(0)
        self._views = self.of_shape(0, 0)

    def fits(self, rows: int, longest: int) -> bool:
        """Whether there is room for so many contexts of that length."""
        return rows * _rounded(longest) * self._token <= self._room

    def arrange(
        self, histories: Sequence[object], starts: Integers, pages: Sequence[Sequence[int]]
    ) -> Integers:
        """Give every row a context of its first `starts` tokens; the order of rows [B] to run in.

        `pages` are the rows' own. One more token fits into every context.
        """
        if not self._goes_on(histories, starts):
            self._order = self._arranged(histories, starts, pages)
            self._views = self.of_shape(len(histories), self._length)
        return self._order

    def _goes_on(self, histories: Sequence[object], starts: Integers) -> bool:
        """Whether these are the rows of the last run, in the same order, and there is room: so it is
        in nearly every step.
        """
        tenants, order = self._tenants, self._order.tolist()
        if len(order) != len(histories) or len(tenants) != len(order):
            return False
        if not int(starts.max()) < self._length:
            return False
        begins = starts.tolist()
        for tenant, row in zip(tenants, order, strict=True):
            if tenant.history is not histories[row] or tenant.end != begins[row]:
                return False
        for tenant in tenants:
            tenant.start = tenant.end
        return True

    def _arranged(
        self, histories: Sequence[object], starts: Integers, pages: Sequence[Sequence[int]]
    ) -> Integers:
        rows, length = len(histories), _rounded(int(starts.max()) + 1)
        # What fails from here on leaves no context that could be taken for another's.
        known, self._tenants = self._tenants, []
        if not length <= self._length <= length + STEP or self._size(rows) > self._room:
            known = self._resized(known, length)
        places = self._settle(known, histories, starts)
        free = iter(sorted(set(range(rows)) - set(places.values())))
        for row in range(rows):
            if row not in places:
                places[row] = next(free)
                self._fill(places[row], int(starts[row]), pages[row])
        order = np.argsort([places[row] for row in range(rows)])
        self._tenants = [
            _Tenant(histories[row], int(starts[row]), int(starts[row])) for row in order
        ]
        return order

    def views(self) -> Array:
        """The contexts [pools, B, kv_heads, T, D]; the same array until rows or lengths change."""
        return self._views

    def grow(self) -> None:
        """Every context has one token more: a run has written it."""
        for tenant in self._tenants:
            tenant.end += 1

    def _size(self, rows: int) -> int:
        return rows * self._length * self._token

    def _settle(
        self, known: Sequence[_Tenant], histories: Sequence[object], starts: Integers
    ) -> dict[int, int]:
        """Row -> place of those whose context is known, moved to the first places."""
        rows = len(histories)
        found = {id(tenant.history): place for place, tenant in enumerate(known)}
        places = {
            row: place
            for row, history in enumerate(histories)
            if (place := found.get(id(history))) is not None
            and known[place].start <= starts[row] <= known[place].end
        }
        free = iter(sorted(set(range(rows)) - set(places.values())))
        for row, place in places.items():
            if place >= rows:
                places[row] = next(free)
                self._move(len(known), place, places[row], int(starts[row]))
        return places

    def _move(self, count: int, source: int, target: int, tokens: int) -> None:
        view = self.of_shape(count, self._length)
        view[:, target, :, :tokens] = view[:, source, :, :tokens]

    def _fill(self, place: int, tokens: int, table: Sequence[int]) -> None:
        view = self.of_shape(place + 1, self._length)[:, place]
        for context, pool in zip(view, self._pool.arrays, strict=True):
            _copy(pool, table, context, tokens)

    def _resized(self, known: Sequence[_Tenant], length: int) -> list[_Tenant]:
        """Contexts of another length; whose there are after that."""
        if len(known) * length * self._token > self._room:
            known = []
        before, self._length = self._length, length
        kept, count = min(before, length), len(known)
        for old, new in zip(
            self.of_shape(count, before), self.of_shape(count, length), strict=True
        ):
            new[:, :, :kept] = old[:, :, :kept].copy()
        return [one if one.end <= kept else _NOBODY for one in known]

    def of_shape(self, rows: int, length: int) -> Array:
        """Contexts [pools, rows, kv_heads, length, D], for every shape always in the same memory."""
        shape = self._pool.shape
        dims = (len(self._flat), rows, shape.kv_heads, length, shape.head_dim)
        return self._flat[:, : rows * length * self._token].reshape(dims)


def gathered(pool: KVPool, tables: Sequence[Sequence[int]], starts: Integers, room: int) -> Array:
    """Contexts [pools, B, kv_heads, T, D] for one run, with `room` for new tokens.

    `tables` are the rows' pages.
    """
    shape = pool.shape
    dims = (len(starts), shape.kv_heads, int(starts.max()) + room, shape.head_dim)
    contexts = np.empty((len(pool.arrays), *dims), shape.dtype)
    for context, array in zip(contexts, pool.arrays, strict=True):
        for row, start in enumerate(starts):
            _copy(array, tables[row], context[row], int(start))
    return contexts


def _copy(pool: Array, table: Sequence[int], context: Array, tokens: int) -> None:
    """The first tokens of a table's pages into a context [kv_heads, T, D]."""
    used = np.asarray(table[: -(-tokens // pool.shape[1])], np.int64)
    pages = pool[used].reshape(-1, *pool.shape[2:])
    context[:, :tokens] = pages[:tokens].swapaxes(0, 1)


def _rounded(tokens: int) -> int:
    return -(-tokens // STEP) * STEP
