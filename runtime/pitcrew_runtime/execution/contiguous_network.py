"""Runs the contiguous form of a graph with ONNX Runtime: contexts in place of pages.

Decoding rows have contexts that are kept from step to step; all others, prompts and their chunks,
have theirs gathered for one run. Either way the graph writes new tokens behind the old ones of a
context, and from there they go into the pools, which everything else reads alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
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
    wrapper_of_new,
)

Logits = NDArray[np.float32]
Rows = NDArray[np.int64]
"""Indices."""
_LOGITS = "logits"
_FEW_ROWS = 4
_SHAPES_KEPT = 64
"""Of contexts that were decoded over: sequences come and go, and shapes come again."""
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
        kept = adapters.arrays if adapters else {}
        self._names = [name.replace("_pool.", "_context.") for name in shape.names]
        self._grown_names = [name.replace("_pool.", "_grown.") for name in shape.names]
        outputs = {_LOGITS, *self._grown_names}
        self._program = Program(session, kept, outputs)
        self._decoder = Program(decoding, kept, outputs)
        self._wrap = wrapper_of_new(shape.kv_dtype)
        wants = {*INPUTS, *self._names, *(adapters.inputs if adapters else ())} - {BLOCK_TABLES}
        check_inputs(set(self._program.inputs), wants)
        self._small = [name for name in (*INPUTS, ADAPTER_SLOTS) if name in self._program.inputs]
        self._logits: Logits = np.empty((0, 1, self._program.width(_LOGITS)), np.float32)
        self._decodings = lru_cache(_SHAPES_KEPT)(self._decoding_over)

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
        starts = packed.inputs["context_lengths"]
        order = self._contexts.arrange(packed.histories, starts, packed.pages)
        views = self._contexts.views()
        self._hold_logits(len(order))
        logits = self._decodings(len(order), views.shape[3]).run(packed.inputs, order)
        self._contexts.grow()
        self._pool.keep(packed.slots[order], views, packed.take, starts[order])
        return logits

    def _hold_logits(self, rows: int) -> None:
        """Have room for those of so many rows."""
        if rows > len(self._logits):
            self._logits = np.empty((rows, *self._logits.shape[1:]), np.float32)
            self._decodings.cache_clear()

    def _decoding_over(self, rows: int, length: int) -> "Decoding":
        """Contexts of one shape lie in one place, so what is bound to them once stays right."""
        views, logits = self._contexts.of_shape(rows, length), self._logits[:rows]
        inputs = {
            name: np.empty((rows,) if name in _BY_ROW else (rows, 1), np.int64)
            for name in self._small
        }
        values = inputs | dict(zip(self._names, views, strict=True))
        into = {**self._grown(views), _LOGITS: self._wrap(logits)}
        program = self._decoder if rows <= _FEW_ROWS else self._program
        return Decoding(inputs, logits, program.bound(values, into))

    def _run_gathered(self, packed: Packed, rows: Rows) -> Logits:
        ids = packed.inputs["input_ids"]
        starts = packed.inputs["context_lengths"][rows]
        pages = [packed.pages[row] for row in rows]
        contexts = gathered(self._pool, pages, starts, ids.shape[1])
        inputs = {name: packed.inputs[name][rows] for name in self._small}
        values = inputs | dict(zip(self._names, contexts, strict=True))
        logits = self._program.run(values, self._grown(contexts))[_LOGITS]
        row, place = np.divmod(packed.take, ids.shape[1])
        here = np.isin(row, rows)
        own = np.searchsorted(rows, row[here])
        self._pool.keep(packed.slots[here], contexts, own, starts[own] + place[here])
        return logits

    def _grown(self, contexts: Array) -> dict[str, Any]:
        """Contexts grow in place."""
        names = self._grown_names
        return {name: self._wrap(one) for name, one in zip(names, contexts, strict=True)}


@dataclass(frozen=True, slots=True)
class Decoding:
    """A run of one token a row over kept contexts: its arrays stay from step to step."""

    inputs: Mapping[str, Array]
    logits: Logits
    compute: Callable[[], None]

    def run(self, given: Mapping[str, Array], order: Rows) -> Logits:
        """Logits [B, 1, vocabulary] in the order of the given rows; the next run overwrites them."""
        for name, array in self.inputs.items():
            np.take(given[name], order, axis=0, out=array)
        self.compute()
        if len(order) == 1 or (order[1:] > order[:-1]).all():
            return self.logits
        back = np.empty_like(self.logits)
        back[order] = self.logits
        return back


def _parts(packed: Packed) -> list[Rows]:
    """Rows that may share a run: all with one token, all without context, others alone."""
    starts = packed.inputs["context_lengths"]
    every: Rows = np.arange(len(starts))
    if packed.inputs["input_ids"].shape[1] == 1:
        return [every]
    alone = [every[row : row + 1] for row in every[starts > 0]]
    fresh = every[starts == 0]
    return [fresh, *alone] if len(fresh) else alone
