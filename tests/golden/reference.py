"""A reference driver of `manifest.GraphInterface`: ragged batches over a shared, hostile page pool.

Written from the interface's text alone, without any code of builder or runtime. Its pool is full of
noise and its pages are dealt out in random order, so a graph that reads a slot it must not read
computes visibly wrong logits.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.golden.split import Session, SplitSession
from tests.golden.stacks import Stacks, part_of, stack

Floats = npt.NDArray[np.float32]
Pool = npt.NDArray[np.float32] | npt.NDArray[np.int8]


class ReferenceEngine:
    """An engine directory, opened."""

    def __init__(self, path: Path, *, exact: bool = False, contiguous: bool = False) -> None:
        """`exact` keeps ONNX Runtime from rounding what enters narrow matrices; `contiguous` takes
        the graph that reads contexts.
        """
        self.path = path
        self.contiguous = contiguous
        self.manifest = json.loads((path / "manifest.json").read_text())
        self.page: int = self.manifest["identity"]["shapes"]["kvPageSize"]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if exact:
            options.add_session_config_entry("session.disable_prepacking", "1")
        graph = path / self.manifest["ranks"][0]["contiguous" if contiguous else "graph"]
        self.session: Session = (
            SplitSession(path, self.manifest)
            if len(self.manifest["ranks"]) > 1
            else onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        )

    def batch(self, rows: int, capacity: int = 80, seed: int = 0) -> "Batch":
        """Room for `rows` sequences of `capacity` tokens."""
        return Batch(self, rows, capacity, np.random.default_rng(seed))

    def adapted(self, adapters: Sequence[Path | None], seed: int = 0) -> "Batch":
        """Room for a sequence under each of the adapters."""
        batch = self.batch(len(adapters), seed=seed)
        batch.take(adapters)
        return batch


class Batch:
    """Sequences that grow together."""

    def __init__(
        self, engine: ReferenceEngine, rows: int, capacity: int, rng: np.random.Generator
    ) -> None:
        model = engine.manifest["model"]
        self._engine = engine
        blocks = -(-capacity // engine.page)
        shape = (rows * blocks + 3, engine.page, model["kvHeads"], model["headDim"])
        self._tables = rng.permutation(shape[0])[: rows * blocks].reshape(rows, blocks)
        narrow = engine.manifest["ranks"][0]["kvDtype"] != "float32"
        self._pools = {
            f"{kind}_pool.{layer}": _noise(rng, shape, narrow=narrow)
            for kind in ("key", "value")
            for layer in range(model["layers"])
        }
        self._lengths = np.zeros(rows, dtype=np.int64)
        self._texts: list[list[int]] = [[] for _ in range(rows)]
        self._first = np.zeros(rows, dtype=np.int64)
        self._stacks: Stacks = {}
        self._slots = np.zeros(rows, dtype=np.int64)
        if engine.manifest["ranks"][0].get("lora"):
            self.take([None] * rows)

    def take(self, adapters: Sequence[Path | None]) -> None:
        """Change the network for each row; None leaves it as it is."""
        distinct = [path for path in dict.fromkeys(adapters) if path is not None]
        self._stacks = stack(self._engine.manifest, distinct)
        self._slots[:] = [distinct.index(path) + 1 if path else 0 for path in adapters]

    def feed(self, rows: list[list[int]], whole: int = 0) -> list[Floats]:
        """Append tokens to each row; the logits [len, vocab] after each of them, by row.

        `whole` tokens are what all texts will have at least.
        """
        for text, row in zip(self._texts, rows, strict=True):
            text += row
        first = np.array([self._first_position(max(whole, len(text))) for text in self._texts])
        anew = (first != self._first) & (self._lengths > 0)
        self._first, self._lengths = first, np.where(anew, 0, self._lengths)
        given = [
            text.copy() if again else row
            for text, row, again in zip(self._texts, rows, anew, strict=True)
        ]
        found = self._compute(given)
        return [logits[-len(row) :] for logits, row in zip(found, rows, strict=True)]

    def _first_position(self, length: int) -> int:
        short = self._engine.manifest["model"].get("shortTexts")
        return short["firstPosition"] if short and length <= short["upTo"] else 0

    def _compute(self, rows: list[list[int]]) -> list[Floats]:
        counts = [len(row) for row in rows]
        width = max(counts)
        ids = np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int64)
        used = -(-int(self._lengths.max()) // self._engine.page)
        names = [output.name for output in self._engine.session.get_outputs()]
        outputs = self._engine.session.run(
            names,
            {
                "input_ids": ids,
                "positions": self._positions(width, counts),
                "context_lengths": self._lengths,
                "logit_indices": np.tile(np.arange(width), (len(rows), 1)),
                **self._past(self._tables[:, :used], width),
                **self._adapters(),
            },
        )
        named = dict(zip(names, outputs, strict=True))
        for row, count in enumerate(counts):
            self._store(named, row, count)
        return [named["logits"][row, :count] for row, count in enumerate(counts)]

    def _past(self, tables: npt.NDArray[np.int64], room: int) -> dict[str, npt.NDArray[Any]]:
        """Block tables and pools, or contexts with noise behind them."""
        if not self._engine.contiguous:
            return {"block_tables": tables, **self._pools}
        return {
            name.replace("_pool.", "_context."): _side_by_side(pool[tables], room)
            for name, pool in self._pools.items()
        }

    def greedy(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """Continue each prompt by its `count` likeliest tokens."""
        tokens: list[list[int]] = [[] for _ in prompts]
        logits = self.feed(prompts)
        while True:
            for row, scores in zip(tokens, logits, strict=True):
                row.append(int(scores[-1].argmax()))
            if len(tokens[0]) == count:
                return tokens
            logits = self.feed([row[-1:] for row in tokens])

    def _adapters(self) -> dict[str, npt.NDArray[Any]]:
        if not self._stacks:
            return {}
        session = self._engine.session
        if isinstance(session, SplitSession):
            session.stacks = self._stacks
            return {"adapter_slots": self._slots}
        return {
            "adapter_slots": self._slots,
            **part_of(self._engine.manifest["ranks"][0], self._stacks),
        }

    def _positions(self, width: int, counts: list[int]) -> npt.NDArray[np.int64]:
        real = np.arange(width) < np.array(counts)[:, None]
        positions: npt.NDArray[np.int64] = np.where(
            real, (self._first + self._lengths)[:, None] + np.arange(width), 0
        )
        return positions

    def _store(self, outputs: dict[str, Floats], row: int, count: int) -> None:
        slots = np.arange(self._lengths[row], self._lengths[row] + count)
        pages, offsets = self._tables[row][slots // self._engine.page], slots % self._engine.page
        for name, pool in self._pools.items():
            if self._engine.contiguous:
                grown = outputs[name.replace("_pool.", "_grown.")]
                new = grown[row, :, slots]
            else:
                kind, layer = name.split("_pool.")
                new = outputs[f"new_{kind}s.{layer}"].view(pool.dtype)[row, :count]
            pool[pages, offsets] = new
        self._lengths[row] += count


def _noise(rng: np.random.Generator, shape: tuple[int, ...], *, narrow: bool) -> Pool:
    """Large numbers, or any bytes."""
    if narrow:
        return rng.integers(-128, 128, shape, dtype=np.int8)
    return 5 * rng.standard_normal(shape, dtype=np.float32)


def _side_by_side(pages: Pool, room: int) -> Pool:
    """[B, P, page, kv_heads, D] to [B, kv_heads, P * page + room, D]."""
    rows, blocks, page, heads, dim = pages.shape
    contexts = pages.transpose(0, 3, 1, 2, 4).reshape(rows, heads, blocks * page, dim)
    return np.pad(contexts, ((0, 0), (0, 0), (0, room), (0, 0)))
