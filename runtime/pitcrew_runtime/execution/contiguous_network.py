"""Runs the contiguous form of a graph with ONNX Runtime: contexts in place of pages.

Decoding rows have contexts that are kept from step to step; all others, prompts and their chunks,
have theirs gathered for one run. Pools are written as ever, and everything else reads these alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import ADAPTER_SLOTS
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.contexts import Contexts, gathered
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.local_network import LocalNetwork
from pitcrew_runtime.execution.packing import BLOCK_TABLES, INPUTS, Packed
from pitcrew_runtime.execution.program import (
    Array,
    Program,
    Session,
    check_inputs,
    new_name,
    wrapper_of_new,
)

Logits = NDArray[np.float32]
Rows = NDArray[np.int64]
"""Indices."""
_LOGITS = "logits"
_FEW_ROWS = 4
_BY_ROW = {"context_lengths", ADAPTER_SLOTS}
"""Inputs [B]; the others are [B, S]."""


class ContiguousNetwork(LocalNetwork):
    """Over one graph, of an engine that is not split and whose cache is not narrow."""

    def __init__(
        self,
        session: Session,
        decoding: Session,
        shape: PoolShape,
        context_bytes: int,
        adapters: AdapterPool | None = None,
    ) -> None:
        """`decoding` may be another session over the same graph, for few rows of one token.

        Kept contexts take at most `context_bytes`; `adapters` is None for an engine without.
        """
        super().__init__(shape, adapters)
        self._contexts = Contexts(self._pool, context_bytes)
        self._decoding: Decoding | None = None
        kept = adapters.arrays if adapters else {}
        self._program = Program(session, kept)
        self._decoder = Program(decoding, kept)
        self._names = [name.replace("_pool.", "_context.") for name in shape.names]
        self._grown_names = [name.replace("_pool.", "_grown.") for name in shape.names]
        self._new_names = [new_name(name) for name in shape.names]
        self._wrap = wrapper_of_new(shape.kv_dtype)
        wants = {*INPUTS, *self._names, *(adapters.inputs if adapters else ())} - {BLOCK_TABLES}
        check_inputs(set(self._program.inputs), wants)
        self._small = [name for name in (*INPUTS, ADAPTER_SLOTS) if name in self._program.inputs]

    def run(self, packed: Packed) -> Logits:
        """See `Network`. Raises whatever ONNX Runtime raises."""
        if self._may_keep(packed):
            return self._run_kept(packed)
        parts = _parts(packed)
        found = [self._run_gathered(packed, rows) for rows in parts]
        if len(parts) == 1:
            return found[0]
        logits = np.empty((len(packed.inputs["input_ids"]), *found[0].shape[1:]), np.float32)
        for rows, of_rows in zip(parts, found, strict=True):
            logits[rows] = of_rows
        return logits

    def _may_keep(self, packed: Packed) -> bool:
        rows, new = packed.inputs["input_ids"].shape
        longest = int(packed.inputs["context_lengths"].max()) + 1
        return new == 1 and all(packed.histories) and self._contexts.fits(rows, longest)

    def _run_kept(self, packed: Packed) -> Logits:
        order = self._contexts.arrange(
            packed.histories, packed.inputs["context_lengths"], packed.pages
        )
        views = self._contexts.views()
        if self._decoding is None or self._decoding.contexts is not views:
            self._decoding = self._decoding_over(views)
        logits, new = self._decoding.run(packed.inputs, order)
        self._contexts.grow()
        self._pool.write(packed.slots[order], new, packed.take)
        return logits

    def _decoding_over(self, views: list[Array]) -> "Decoding":
        shape, rows = self._shape, len(views[0])
        new = np.empty((len(views), rows, 1, shape.kv_heads, shape.head_dim), shape.dtype)
        logits = np.empty((rows, 1, self._program.width(_LOGITS)), np.float32)
        inputs = {
            name: np.empty((rows,) if name in _BY_ROW else (rows, 1), np.int64)
            for name in self._small
        }
        into = self._into(new, views) | {_LOGITS: self._wrap(logits)}
        values = inputs | dict(zip(self._names, views, strict=True))
        program = self._decoder if rows <= _FEW_ROWS else self._program
        return Decoding(views, inputs, new, logits, program.bound(values, into))

    def _run_gathered(self, packed: Packed, rows: Rows) -> Logits:
        ids = packed.inputs["input_ids"]
        starts = packed.inputs["context_lengths"][rows]
        pages = [packed.pages[row] for row in rows]
        contexts = gathered(self._pool, pages, starts, ids.shape[1])
        logits, new = self._compute(packed, rows, contexts)
        row, place = np.divmod(packed.take, ids.shape[1])
        here = np.isin(row, rows)
        take = np.searchsorted(rows, row[here]) * ids.shape[1] + place[here]
        self._pool.write(packed.slots[here], new, take)
        return logits

    def _compute(self, packed: Packed, rows: Rows, contexts: list[Array]) -> tuple[Logits, Array]:
        """Logits [B, K, vocabulary] of these rows, and their new tokens [pools, B, S, kv_heads, D].
        Contexts grow in place.
        """
        inputs = {name: packed.inputs[name][rows] for name in self._small}
        shape = self._shape
        dims = (len(contexts), *inputs["input_ids"].shape, shape.kv_heads, shape.head_dim)
        new = np.empty(dims, shape.dtype)
        values = inputs | dict(zip(self._names, contexts, strict=True))
        return self._program.run(values, self._into(new, contexts))[_LOGITS], new

    def _into(self, new: Array, contexts: list[Array]) -> dict[str, Any]:
        """What new tokens and grown contexts are written to, by output."""
        names = (*self._new_names, *self._grown_names)
        return {
            name: self._wrap(array) for name, array in zip(names, [*new, *contexts], strict=True)
        }


@dataclass(frozen=True, slots=True)
class Decoding:
    """A run of one token a row over kept contexts: its arrays stay from step to step."""

    contexts: list[Array]
    """The list that `Contexts.views` gave."""
    inputs: Mapping[str, Array]
    new: Array
    logits: Logits
    compute: Callable[[], None]

    def run(self, given: Mapping[str, Array], order: Rows) -> tuple[Logits, Array]:
        """Logits [B, 1, vocabulary] in the order of the given rows, and new tokens [pools, B, 1,
        kv_heads, D] in that of the contexts. The next run overwrites both.
        """
        for name, array in self.inputs.items():
            np.take(given[name], order, axis=0, out=array)
        self.compute()
        if len(order) == 1 or (order[1:] > order[:-1]).all():
            return self.logits, self.new
        back = np.empty_like(self.logits)
        back[order] = self.logits
        return back, self.new


def _parts(packed: Packed) -> list[Rows]:
    """Rows that may share a run: all with one token, all without context, others alone."""
    starts = packed.inputs["context_lengths"]
    every: Rows = np.arange(len(starts))
    if packed.inputs["input_ids"].shape[1] == 1:
        return [every]
    alone = [every[row : row + 1] for row in every[starts > 0]]
    fresh = every[starts == 0]
    return [fresh, *alone] if len(fresh) else alone
