"""Runs the contiguous form of a graph with ONNX Runtime: contexts in place of pages.

Decoding rows have contexts that are kept from step to step; all others, prompts and their chunks,
have theirs gathered for one run. Pools are written as ever, and everything else reads these alone.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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


class ContiguousNetwork(LocalNetwork):
    """Over one session, of an engine that is not split and whose cache is not narrow."""

    def __init__(
        self,
        session: Session,
        shape: PoolShape,
        context_bytes: int,
        adapters: AdapterPool | None = None,
    ) -> None:
        """Kept contexts take at most `context_bytes`; `adapters` is None for an engine without."""
        super().__init__(shape, adapters)
        self._contexts = Contexts(self._pool, context_bytes)
        self._program = Program(session, adapters.arrays if adapters else {})
        self._names = [name.replace("_pool.", "_context.") for name in shape.names]
        self._grown_names = [name.replace("_pool.", "_grown.") for name in shape.names]
        self._new_names = [new_name(name) for name in shape.names]
        self._wrap = wrapper_of_new(shape.kv_dtype)
        wants = {*INPUTS, *self._names, *(adapters.inputs if adapters else ())} - {BLOCK_TABLES}
        check_inputs(set(self._program.inputs), wants)

    def run(self, packed: Packed) -> Logits:
        """See `Network`. Raises whatever ONNX Runtime raises."""
        if self._may_keep(packed):
            return self._run_kept(packed)
        parts = _parts(packed)
        found = [self._run_gathered(packed, rows) for rows in parts]
        logits = np.empty((len(packed.inputs["input_ids"]), *found[0].shape[1:]), np.float32)
        for rows, of_rows in zip(parts, found, strict=True):
            logits[rows] = of_rows
        return logits

    def _may_keep(self, packed: Packed) -> bool:
        rows, new = packed.inputs["input_ids"].shape
        longest = int(packed.inputs["context_lengths"].max()) + 1
        return new == 1 and all(packed.histories) and self._contexts.fits(rows, longest)

    def _run_kept(self, packed: Packed) -> Logits:
        tables, lengths = packed.inputs[BLOCK_TABLES], packed.inputs["context_lengths"]
        order = self._contexts.arrange(packed.histories, lengths, tables)
        logits, new = self._compute(packed, order, self._contexts.views())
        self._contexts.grow()
        self._pool.write(packed.slots[order], new, np.arange(len(order)))
        back = np.empty_like(logits)
        back[order] = logits
        return back

    def _run_gathered(self, packed: Packed, rows: Rows) -> Logits:
        ids, tables = packed.inputs["input_ids"], packed.inputs[BLOCK_TABLES]
        starts = packed.inputs["context_lengths"][rows]
        contexts = gathered(self._pool, tables[rows], starts, ids.shape[1])
        logits, new = self._compute(packed, rows, contexts)
        row, place = np.divmod(packed.take, ids.shape[1])
        here = np.isin(row, rows)
        take = np.searchsorted(rows, row[here]) * ids.shape[1] + place[here]
        self._pool.write(packed.slots[here], new, take)
        return logits

    def _compute(
        self, packed: Packed, rows: Rows, contexts: Sequence[Array]
    ) -> tuple[Logits, list[Array]]:
        """Logits [B, K, vocabulary] of these rows, and their new tokens [B, S, kv_heads, D] for each
        pool. Contexts grow in place.
        """
        inputs = {name: array[rows] for name, array in packed.inputs.items()}
        shape = self._shape
        dims = (len(contexts), *inputs["input_ids"].shape, shape.kv_heads, shape.head_dim)
        new = list(np.empty(dims, shape.dtype))
        names = (*self._new_names, *self._grown_names)
        into = {
            name: self._wrap(array) for name, array in zip(names, [*new, *contexts], strict=True)
        }
        values = inputs | dict(zip(self._names, contexts, strict=True))
        return self._program.run(values, into)["logits"], new


def _parts(packed: Packed) -> list[Rows]:
    """Rows that may share a run: all with one token, all without context, others alone."""
    starts = packed.inputs["context_lengths"]
    every: Rows = np.arange(len(starts))
    if packed.inputs["input_ids"].shape[1] == 1:
        return [every]
    alone = [every[row : row + 1] for row in every[starts > 0]]
    fresh = every[starts == 0]
    return [fresh, *alone] if len(fresh) else alone
