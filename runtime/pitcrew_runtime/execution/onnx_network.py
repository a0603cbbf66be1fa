"""Runs what one rank computes with ONNX Runtime on the CPU; of an engine that is not split, all.

A rank's network is one graph, or segments of it with exchanges between them. The pools are bound to
the sessions once and without a copy, and new keys and values go straight into arrays of ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import Exchange
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.collective import Collective
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.local_network import LocalNetwork
from pitcrew_runtime.execution.packing import INPUTS, Packed, with_block_tables
from pitcrew_runtime.execution.program import (
    Array,
    Program,
    Session,
    check_inputs,
    new_name,
    wrapper_of_new,
)

_LOGITS, _ROWS = "logits", "rows."


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the graph that needs no other rank, and what is exchanged after it."""

    session: Session
    exchanges: Sequence[Exchange] = ()


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The other ranks: for sums, and in the pipeline."""

    collective: Collective
    before: int | None
    """The rank whose rows this one goes on with."""
    after: int | None


class OnnxNetwork(LocalNetwork):
    """Over one session, or several with exchanges between them."""

    def __init__(
        self,
        segments: Sequence[Segment],
        shape: PoolShape,
        adapters: AdapterPool | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        """`adapters` is None for an engine that takes none, `neighbours` for one of one rank."""
        super().__init__(shape, adapters)
        self._neighbours = neighbours
        kept = dict(zip(shape.names, self._pool.arrays, strict=True))
        kept |= adapters.arrays if adapters else {}
        self._programs = [Program(segment.session, kept) for segment in segments]
        self._exchanges = [segment.exchanges for segment in segments]
        self._check_inputs(kept)
        self._new_names = [new_name(name) for name in shape.names]
        self._wrap = wrapper_of_new(shape.kv_dtype)

    def run(self, packed: Packed) -> NDArray[np.float32]:
        """See `Network`. Raises whatever ONNX Runtime raises."""
        logits = self.run_rank(with_block_tables(packed, self.page_size))
        assert logits is not None, "a pipeline stage has no logits"
        return logits

    def run_rank(self, packed: Packed) -> NDArray[np.float32] | None:
        """The same for any rank, from inputs with block tables; None on a stage that hands its rows
        over instead.
        """
        batch, length = packed.inputs["input_ids"].shape
        shape = self._shape
        dims = (len(shape.names), batch, length, shape.kv_heads, shape.head_dim)
        new = np.empty(dims, shape.dtype)
        into = {name: self._wrap(array) for name, array in zip(self._new_names, new, strict=True)}
        values: dict[str, Array] = dict(packed.inputs) | self._taken_over()
        for program, exchanges in zip(self._programs, self._exchanges, strict=True):
            values |= program.run(values, into)
            for exchange in exchanges:
                assert self._neighbours is not None
                given = values[exchange.value]
                values[exchange.result] = self._neighbours.collective.exchange(exchange, given)
        self._pool.write(packed.slots, new, packed.take)
        self._hand_over(values)
        return values.get(_LOGITS)

    def _taken_over(self) -> dict[str, Array]:
        """The rows that the stage before this one has computed."""
        around = self._neighbours
        if around is None or around.before is None:
            return {}
        return {f"{_ROWS}{self._shape.first_layer}": around.collective.receive(around.before)}

    def _hand_over(self, values: Mapping[str, Array]) -> None:
        around = self._neighbours
        if around is not None and around.after is not None:
            following = self._shape.first_layer + self._shape.layers
            around.collective.send(values[f"{_ROWS}{following}"], around.after)

    def _check_inputs(self, kept: Mapping[str, Array]) -> None:
        given = {exchange.result for group in self._exchanges for exchange in group}
        given |= {name for program in self._programs for name in program.outputs}
        has = {name for program in self._programs for name in program.inputs} - given
        has = {name for name in has if not name.startswith(_ROWS)}
        wants = {*INPUTS, *kept, *(self._adapters.inputs if self._adapters else ())}
        if self._neighbours is not None and self._neighbours.after is not None:
            wants.discard("logit_indices")
        check_inputs(has, wants)
