"""Runs what one rank computes with ONNX Runtime on the CPU; of an engine that is not split, all.

A rank's network is one graph, or segments of it with exchanges between them. The pools are bound to
the sessions once and without a copy; every run binds its small inputs, and new keys and values go
straight into arrays of ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import Exchange
from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.errors import EngineIncompatible
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.collective import Collective
from pitcrew_runtime.execution.kv_pool import KVPool, PoolShape
from pitcrew_runtime.execution.packing import INPUTS, Packed

Array = NDArray[Any]
Session = Any
"""Of onnxruntime, which has no types."""

_FLOAT8_E4M3FN = 17
"""The value of ONNX's `TensorProto.DataType`; NumPy has no such type."""

_LOGITS, _ROWS = "logits", "rows."


def open_session(graph: Path, threads: int) -> Session:
    """Load a graph; raises `EngineIncompatible` where ONNX Runtime refuses it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Shapes change with every step: a plan of the memory for one shape would never be used again.
    options.enable_mem_pattern = False
    # Spinning threads are a little faster alone, and steal the CPU from the HTTP side and from
    # every neighbour in the node.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineIncompatible(
            f"ONNX Runtime {ort.__version__} cannot load {graph.name}: {error}; build the engine "
            "anew with this release of Pitcrew"
        ) from error


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


class OnnxNetwork:
    """A `Network` over sessions and pools of this process."""

    def __init__(
        self,
        segments: Sequence[Segment],
        shape: PoolShape,
        adapters: AdapterPool | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        """`adapters` is None for an engine that takes none, `neighbours` for one of one rank."""
        self._shape = shape
        self._pool = KVPool(shape)
        self._adapters = adapters
        self._neighbours = neighbours
        kept = dict(zip(shape.names, self._pool.arrays, strict=True))
        kept |= adapters.arrays if adapters else {}
        self._programs = [_Program(segment.session, kept) for segment in segments]
        self._exchanges = [segment.exchanges for segment in segments]
        self._check_inputs(kept)
        self._new_names = [_new(name) for name in shape.names]
        self._wrap = _wrapper_of_new(shape.kv_dtype)

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return self._shape.pages

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self._shape.page_size

    @property
    def fault(self) -> str | None:
        """A session can always be asked again."""
        return None

    def close(self) -> None:
        """See `Network`: there is nothing to do."""

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `Network`."""
        self._pool.copy(pairs)

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        """See `Network`."""
        if self._adapters is not None:
            self._adapters.hold(adapters)

    def run(self, packed: Packed) -> NDArray[np.float32]:
        """See `Network`. Raises whatever ONNX Runtime raises."""
        logits = self.run_rank(packed)
        assert logits is not None, "a pipeline stage has no logits"
        return logits

    def run_rank(self, packed: Packed) -> NDArray[np.float32] | None:
        """The same for any rank; None on a stage that hands its rows over instead."""
        batch, length = packed.inputs["input_ids"].shape
        shape = self._shape
        dims = (len(shape.names), batch, length, shape.kv_heads, shape.head_dim)
        new = list(np.empty(dims, shape.dtype))
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
        if has != wants:
            raise EngineIncompatible(
                f"the graph's inputs differ from its manifest's: missing {sorted(wants - has)}, "
                f"unexpected {sorted(has - wants)}; build the engine anew"
            )


class _Program:
    """One session: what is `kept` it reads in place, all else it is given by name."""

    def __init__(self, session: Session, kept: Mapping[str, Array]) -> None:
        import onnxruntime as ort

        self._session = session
        self._binding = session.io_binding()
        self._value = ort.OrtValue.ortvalue_from_numpy
        self.inputs = [tensor.name for tensor in session.get_inputs()]
        self.outputs = [tensor.name for tensor in session.get_outputs()]
        self._given = [name for name in self.inputs if name not in kept]
        self._bound = {name: self._value(kept[name]) for name in self.inputs if name in kept}
        for name, value in self._bound.items():
            self._binding.bind_ortvalue_input(name, value)

    def run(self, values: Mapping[str, Array], into: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs by name, without those that were written `into` values of the caller."""
        for name in self._given:
            self._binding.bind_ortvalue_input(name, self._value(values[name]))
        for name in self.outputs:
            if name in into:
                self._binding.bind_ortvalue_output(name, into[name])
            else:
                self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        results = self._binding.get_outputs()
        return {
            name: value.numpy()
            for name, value in zip(self.outputs, results, strict=True)
            if name not in into
        }


def _new(pool: str) -> str:
    """The output that belongs to a pool."""
    return pool.replace("key_pool", "new_keys").replace("value_pool", "new_values")


def _wrapper_of_new(kv_dtype: str) -> Callable[[Array], Any]:
    """What makes an array of ours one that the graph writes new keys or values into."""
    import onnxruntime as ort

    if kv_dtype == "float8_e4m3fn":
        typed = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
        return lambda array: typed(array, _FLOAT8_E4M3FN)
    plain: Callable[[Array], Any] = ort.OrtValue.ortvalue_from_numpy
    return plain
