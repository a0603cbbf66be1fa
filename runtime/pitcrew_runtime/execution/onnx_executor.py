"""Runs the engine's graph with ONNX Runtime on the CPU.

The pools are bound to the session once and without a copy; every run binds its small inputs and
lets ONNX Runtime write straight into arrays of ours. Knows nothing of requests or scheduling.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.request import Sampled
from pitcrew_runtime.errors import EngineIncompatible
from pitcrew_runtime.execution.grouping import group
from pitcrew_runtime.execution.kv_pool import KVPool, PoolShape
from pitcrew_runtime.execution.sampler import Draw, sample

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

    def __init__(self, session: Any, shape: PoolShape, vocabulary: int) -> None:  # noqa: ANN401
        import onnxruntime as ort

        _check_inputs(session, shape)
        self._session = session
        self._shape = shape
        self._vocabulary = vocabulary
        self._pool = KVPool(shape)
        self._value = ort.OrtValue.ortvalue_from_numpy
        self._new = _wrapper_of_new(shape.kv_dtype)
        self._binding = session.io_binding()
        self._bound = [self._value(array) for array in self._pool.arrays]
        for name, value in zip(shape.names, self._bound, strict=True):
            self._binding.bind_ortvalue_input(name, value)

    @property
    def pages(self) -> int:
        """Pages in the pool."""
        return self._shape.pages

    def execute(self, batch: StepBatch) -> list[Sampled | None]:
        """See `Executor`. Raises `NonFiniteLogits` and whatever ONNX Runtime raises."""
        results: list[Sampled | None] = [None] * len(batch.rows)
        for indices in group(batch.rows):
            rows = [batch.rows[index] for index in indices]
            for index, sampled in zip(indices, self._run(rows), strict=True):
                results[index] = sampled
        return results

    def _run(self, rows: Sequence[Row]) -> list[Sampled | None]:
        inputs, slots, take = pack(rows, self._shape.page_size)
        logits, new = self._outputs(*inputs["input_ids"].shape)
        for name in _SMALL_INPUTS:
            self._binding.bind_ortvalue_input(name, self._value(inputs[name]))
        self._session.run_with_iobinding(self._binding)
        self._pool.write(slots, new, take)
        return _sample(rows, logits[:, 0])

    def _outputs(self, batch: int, length: int) -> tuple[NDArray[np.float32], list[NDArray[Any]]]:
        """Arrays for the graph to write into: logits [B, 1, vocabulary], and one per pool."""
        shape = self._shape
        logits = np.empty((batch, 1, self._vocabulary), np.float32)
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
    return ort.OrtValue.ortvalue_from_numpy


def pack(
    rows: Sequence[Row], page_size: int
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64], NDArray[np.int64]]:
    """The graph's small inputs, the pool slots of the new tokens, and where these are in [B x S].

    Rows are padded on the right with token 0 at position 0. A block table lists the pages with
    context only; entries beyond a row's own are page 0, which the mask hides.
    """
    batch, length = len(rows), max(len(row.tokens) for row in rows)
    width = max(-(-row.start // page_size) for row in rows)
    ids = np.zeros((batch, length), np.int64)
    positions = np.zeros((batch, length), np.int64)
    tables = np.zeros((batch, width), np.int64)
    slots, take = [], []
    for index, row in enumerate(rows):
        count = len(row.tokens)
        places = np.arange(row.start, row.end)
        first = row.start // page_size
        written = np.asarray(row.pages[first : -(-row.end // page_size)], np.int64)
        ids[index, :count] = row.tokens
        positions[index, :count] = places
        used = row.pages[: -(-row.start // page_size)]
        tables[index, : len(used)] = used
        slots.append(written[places // page_size - first] * page_size + places % page_size)
        take.append(np.arange(index * length, index * length + count))
    inputs = {
        "input_ids": ids,
        "positions": positions,
        "block_tables": tables,
        "context_lengths": np.asarray([row.start for row in rows], np.int64),
        "logit_indices": np.asarray([[len(row.tokens) - 1] for row in rows], np.int64),
    }
    return inputs, np.concatenate(slots), np.concatenate(take)


def _sample(rows: Sequence[Row], logits: NDArray[np.float32]) -> list[Sampled | None]:
    wanted = [index for index, row in enumerate(rows) if row.sampling is not None]
    if not wanted:
        return [None] * len(rows)
    draws = [
        Draw(sampling, row.end, row.history, row.prompt_length)
        for row in rows
        if (sampling := row.sampling) is not None
    ]
    sampled = sample(logits[wanted], draws)
    found = dict(zip(wanted, sampled, strict=True))
    return [found.get(index) for index in range(len(rows))]


def _check_inputs(session: Any, shape: PoolShape) -> None:  # noqa: ANN401
    has = {tensor.name for tensor in session.get_inputs()}
    wants = {*_SMALL_INPUTS, *shape.names}
    if has != wants:
        raise EngineIncompatible(
            f"the graph's inputs differ from its manifest's: missing {sorted(wants - has)}, "
            f"unexpected {sorted(has - wants)}; build the engine anew"
        )
