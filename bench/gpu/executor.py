"""Runs an engine's plan over a paged pool on the GPU of this machine: what a TensorRT executor has to do.

Pools, inputs and outputs lie on the GPU at addresses that never change, so a step of decoding can be
captured once for each number of sequences and blocks and replayed. New keys and values are put into
their pages by one small kernel a step. Knows `manifest.GraphInterface`; knows no scheduler.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parent / "facts"))

import numpy as np
from kernels import Kernel
from session import Array, Buffer, Native, Replay, Session

from pitcrew_builder.targets.trt import nvrtc

PREFILL, DECODE = 0, 1
"""The plan's profiles."""

Tables: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

STORE = """
// What a step made of every layer [rows, WIDTH], into the slots of its pools; a negative slot takes nothing.
extern "C" __global__ void store(uint4* const* pools, const uint4* const* made, const long long* slots) {
  const long long slot = slots[blockIdx.x];
  if (slot < 0) return;
  uint4* to = pools[blockIdx.y] + slot * CHUNKS;
  const uint4* from = made[blockIdx.y] + (long long)blockIdx.x * CHUNKS;
  for (int i = threadIdx.x; i < CHUNKS; i += blockDim.x) to[i] = from[i];
}
"""


@dataclass(frozen=True)
class Facts:
    """What the executor has to know of an engine."""

    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    page: int


@dataclass
class Pages:
    """One sequence: its pages, and how many of its tokens lie in them."""

    table: list[int]
    length: int = 0
    first: int = 0
    """What stands for its position 0: see `manifest.ModelFacts.short_texts`."""


class Executor:
    """A plan, its pools, and its steps."""

    def __init__(
        self, trt: Native, plan: bytes, facts: Facts, pages: int, rows: int, seed: int = 0
    ) -> None:
        """`rows` are the most tokens of a step, over all sequences. The pool starts full of noise."""
        self.session, self.facts = Session(trt, plan), facts
        half = np.dtype(self.session.types["key_pool.0"])
        shape = (pages, facts.page, facts.kv_heads, facts.head_dim)
        noise = (5 * np.random.default_rng(seed).standard_normal(shape, np.float32)).astype(half)
        names = [f"{kind}.{i}" for kind in ("key", "value") for i in range(facts.layers)]
        pools = [name.replace(".", "_pool.") for name in names]
        made = ["new_" + name.replace(".", "s.") for name in names]
        width = facts.kv_heads * facts.head_dim * half.itemsize
        self._held = {name: Buffer.of(noise) for name in pools}
        self._held |= {name: Buffer(rows * width) for name in made}
        self._held["logits"] = Buffer(rows * facts.vocab * 4)
        for name in ("input_ids", "positions", "context_lengths", "logit_indices", "slots"):
            self._held[name] = Buffer(rows * 8)
        self._held["block_tables"] = Buffer(max(rows, 64) * 8 * max(1, pages))
        for name, buffer in self._held.items():
            if name != "slots":
                self.session.context.set_tensor_address(name, buffer.address)
        for name in pools:
            self.session.context.set_input_shape(name, shape)
        self._addresses = [
            Buffer.of(np.array([self._held[name].address for name in group], np.int64))
            for group in (pools, made)
        ]
        self._store = Kernel(
            nvrtc.ptx(STORE.encode(), "store.cu", {"CHUNKS": width // 16}), "store"
        )
        self._pools, self._profile = shape, PREFILL
        self._graphs: dict[tuple[int, int], Replay] = {}
        self._shapes: tuple[int, ...] = ()

    def step(
        self, sequences: Sequence[Pages], tokens: Sequence[Sequence[int]], *, graph: bool = False
    ) -> list[Array]:
        """Append tokens to each sequence: the logits [len, vocab] after each of them, by sequence."""
        counts = [len(each) for each in tokens]
        batch, new = len(counts), max(counts)
        used = -(-max(each.length for each in sequences) // self.facts.page)
        wanted = 1 if new == 1 else new
        self._use(DECODE if new == 1 and used else PREFILL)
        if self._profile == DECODE:
            used = max(1, used)
        self._fill(sequences, tokens, new, used)
        self._shape(batch, new, used, wanted)
        if graph:
            self.replay(batch, used)
        else:
            self.enqueue()
        self.session.wait()
        logits = self._held["logits"].read((batch, wanted, self.facts.vocab), np.float32)
        for each, count in zip(sequences, counts, strict=True):
            each.length += count
        return [row[:count] for row, count in zip(logits, counts, strict=True)]

    def enqueue(self) -> None:
        """The plan as it is shaped, and its keys and values into their pages."""
        self.session.enqueue()
        batch, new = self._shapes[:2]
        pools, made = (buffer.address for buffer in self._addresses)
        grid = (batch * new, 2 * self.facts.layers, 1)
        slots = self._held["slots"].address
        self._store.launch(grid, 64, self.session.stream, pools, made, slots)

    def replay(self, batch: int, blocks: int) -> None:
        """A step of decoding, captured when its shape is first seen: after one eager run."""
        known = self._graphs.get((batch, blocks))
        if known is None:
            self.enqueue()
            self.session.wait()
            known = self._graphs[batch, blocks] = Replay(self.session, self.enqueue)
        known()

    def _use(self, profile: int) -> None:
        if profile != self._profile:
            self.session.use(profile)
            self._profile, self._shapes = profile, ()

    def _fill(
        self, sequences: Sequence[Pages], tokens: Sequence[Sequence[int]], new: int, used: int
    ) -> None:
        lengths = np.array([each.length for each in sequences], np.int64)
        real = np.arange(new) < np.array([len(each) for each in tokens])[:, None]
        places = np.where(real, lengths[:, None] + np.arange(new), 0)
        tables = np.array([_padded(each.table, used) for each in sequences], np.int64)
        ids = np.array([_padded(each, new) for each in tokens], np.int64)
        every = np.array([_padded(each.table, len(each.table)) for each in sequences], np.int64)
        page = self.facts.page
        slots = np.take_along_axis(every, places // page, axis=1) * page + places % page
        self._put("input_ids", ids)
        firsts = np.array([each.first for each in sequences], np.int64)
        self._put("positions", places + firsts[:, None])
        self._put("context_lengths", lengths)
        self._put("logit_indices", np.broadcast_to(np.arange(new), ids.shape))
        self._put("block_tables", tables)
        self._put("slots", np.where(real, slots, -1).astype(np.int64))

    def _put(self, name: str, array: Array) -> None:
        kind = self.session.types.get(name, np.int64)
        self._held[name].fill(np.ascontiguousarray(array).astype(kind))

    def _shape(self, batch: int, new: int, used: int, wanted: int) -> None:
        if self._shapes == (batch, new, used, wanted):
            return
        self._shapes = (batch, new, used, wanted)
        shapes = {
            "input_ids": (batch, new),
            "positions": (batch, new),
            "context_lengths": (batch,),
            "logit_indices": (batch, wanted),
            "block_tables": (batch, used),
        }
        for name, shape in shapes.items():
            if not self.session.context.set_input_shape(name, shape):
                raise RuntimeError(f"shape {shape} of {name} is outside profile {self._profile}")


def _padded(values: Sequence[int], count: int) -> list[int]:
    return [*values[:count], *[0] * (count - len(values))]
