"""Runs the engine's graph with ONNX Runtime on the CPU.

The pools are bound to the session once and without a copy; every run binds its small inputs and
lets ONNX Runtime write straight into arrays of ours. Knows nothing of requests or scheduling.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.manifest import ADAPTER_SLOTS
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen, Work
from pitcrew_runtime.errors import EngineIncompatible
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.choosing import choose
from pitcrew_runtime.execution.grouping import group
from pitcrew_runtime.execution.kv_pool import KVPool, PoolShape
from pitcrew_runtime.execution.packing import pack

_FLOAT8_E4M3FN = 17
"""The value of ONNX's `TensorProto.DataType`; NumPy has no such type."""

_SMALL_INPUTS = ("input_ids", "positions", "block_tables", "context_lengths", "logit_indices")


def open_session(graph: Path, threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
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


class OnnxExecutor:
    """An executor over one session and one pool."""

    def __init__(
        self,
        session: Any,  # noqa: ANN401
        shape: PoolShape,
        vocabulary: int,
        adapters: AdapterPool | None = None,
    ) -> None:
        """`adapters` is None for an engine that takes none."""
        import onnxruntime as ort

        _check_inputs(session, shape, adapters)
        self._adapters = adapters
        self._session = session
        self._shape = shape
        self._vocabulary = vocabulary
        self.work = Work()
        self._pool = KVPool(shape)
        self._value = ort.OrtValue.ortvalue_from_numpy
        self._new = _wrapper_of_new(shape.kv_dtype)
        self._binding = session.io_binding()
        kept = dict(zip(shape.names, self._pool.arrays, strict=True))
        kept |= adapters.arrays if adapters else {}
        self._bound = {name: self._value(array) for name, array in kept.items()}
        for name, value in self._bound.items():
            self._binding.bind_ortvalue_input(name, value)

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return self._shape.pages

    def execute(self, batch: StepBatch) -> list[Chosen]:
        """See `Executor`. Raises `NonFiniteLogits` and whatever ONNX Runtime raises."""
        self._pool.copy(batch.copies)
        if self._adapters is not None:
            self._adapters.hold(batch.adapters)
        results: list[Chosen] = [()] * len(batch.rows)
        for indices in group(batch.rows):
            rows = [batch.rows[index] for index in indices]
            for index, chosen in zip(indices, self._run(rows), strict=True):
                results[index] = chosen
        return results

    def _run(self, rows: Sequence[Row]) -> Sequence[Chosen]:
        inputs, slots, take = pack(rows, self._shape.page_size)
        batch, length = inputs["input_ids"].shape
        logits, new = self._outputs(batch, length, inputs["logit_indices"].shape[1])
        if self._adapters is not None:
            inputs[ADAPTER_SLOTS] = np.asarray([row.slot for row in rows], np.int64)
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._value(array))
        begin = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        self.work.seconds += time.perf_counter() - begin
        self._pool.write(slots, new, take)
        self.work.runs += 1
        self.work.positions += batch * length
        self.work.padding += batch * length - len(take)
        return choose(rows, logits)

    def _outputs(
        self, batch: int, length: int, wanted: int
    ) -> tuple[NDArray[np.float32], list[NDArray[Any]]]:
        """Arrays for the graph to write into: logits [B, K, vocabulary], and one per pool."""
        shape = self._shape
        logits = np.empty((batch, wanted, self._vocabulary), np.float32)
        self._binding.bind_ortvalue_output("logits", self._value(logits))
        dims = (len(shape.names), batch, length, shape.kv_heads, shape.head_dim)
        new = list(np.empty(dims, shape.dtype))
        for name, array in zip(shape.names, new, strict=True):
            output = name.replace("key_pool", "new_keys").replace("value_pool", "new_values")
            self._binding.bind_ortvalue_output(output, self._new(array))
        return logits, new


def _wrapper_of_new(kv_dtype: str) -> Callable[[NDArray[Any]], Any]:
    """What makes an array of ours one that the graph writes new keys or values into."""
    import onnxruntime as ort

    if kv_dtype == "float8_e4m3fn":
        typed = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
        return lambda array: typed(array, _FLOAT8_E4M3FN)
    plain: Callable[[NDArray[Any]], Any] = ort.OrtValue.ortvalue_from_numpy
    return plain


def _check_inputs(session: Any, shape: PoolShape, adapters: AdapterPool | None) -> None:  # noqa: ANN401
    has = {tensor.name for tensor in session.get_inputs()}
    wants = {*_SMALL_INPUTS, *shape.names, *(adapters.inputs if adapters else ())}
    if has != wants:
        raise EngineIncompatible(
            f"the graph's inputs differ from its manifest's: missing {sorted(wants - has)}, "
            f"unexpected {sorted(has - wants)}; build the engine anew"
        )
