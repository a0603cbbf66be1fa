"""Drives a graph of `manifest.GraphInterface` in ONNX Runtime, one sequence at a time.

As plain as can be: it serves the proof of a build, not users.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder.errors import ValidationFailed
from pitcrew_builder.manifest import ModelFacts

if TYPE_CHECKING:
    import onnxruntime

Floats: TypeAlias = npt.NDArray[np.float32]


class PagedRunner:
    """One sequence over a pool that is just large enough for it."""

    def __init__(self, graph: Path, facts: ModelFacts, page: int, capacity: int) -> None:
        self._session = _open(graph)
        self._names = [output.name for output in self._session.get_outputs()]
        self._page = page
        pages = -(-capacity // page)
        # Descending, so that a graph that ignored the table would read other pages.
        self._table = np.arange(pages, dtype=np.int64)[::-1]
        shape = (pages, page, facts.kv_heads, facts.head_dim)
        self._pools = {
            f"{kind}_pool.{layer}": np.zeros(shape, np.float32)
            for kind in ("key", "value")
            for layer in range(facts.layers)
        }
        self._length = 0

    def reset(self) -> None:
        """Forget the sequence."""
        self._length = 0

    def extend(self, tokens: list[int]) -> Floats:
        """Append tokens and return the logits [len(tokens), vocab] after each."""
        start, count = self._length, len(tokens)
        used = -(-start // self._page)
        named = self._run(
            {
                "input_ids": np.array([tokens], dtype=np.int64),
                "positions": np.arange(start, start + count, dtype=np.int64)[None],
                "block_tables": self._table[None, :used],
                "context_lengths": np.array([start], dtype=np.int64),
                "logit_indices": np.arange(count, dtype=np.int64)[None],
                **self._pools,
            },
        )
        self._store(named, start, count)
        self._length += count
        logits: Floats = named["logits"][0]
        return logits

    def _run(self, inputs: dict[str, npt.NDArray[Any]]) -> dict[str, Floats]:
        try:
            outputs = self._session.run(self._names, inputs)
        except Exception as error:
            raise _failed("run", error) from error
        return dict(zip(self._names, outputs, strict=True))

    def _store(self, outputs: dict[str, Floats], start: int, count: int) -> None:
        slots = np.arange(start, start + count)
        pages, offsets = self._table[slots // self._page], slots % self._page
        for name, pool in self._pools.items():
            kind, layer = name.split("_pool.")
            pool[pages, offsets] = outputs[f"new_{kind}s.{layer}"][0]


def _open(graph: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # A build shares its cores; threads that spin between two operators would take them all.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Packing would copy every matrix; the proof reads them as they are mapped from the file.
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _failed("load", error) from error


def _failed(verb: str, error: Exception) -> ValidationFailed:
    # The runtime's exceptions share no base class of their own.
    return ValidationFailed(
        f"ONNX Runtime does not {verb} the graph: {error}; please report this as a bug"
    )
