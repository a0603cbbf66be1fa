"""Runs a plan, or those of a rank, over pools of pages in the memory of a GPU.

A run is one upload of its small inputs, the plan, new keys and values into their pages, and the
likeliest tokens: one CUDA graph, as TensorRT takes 50 ms for a run of another shape than the last one was
of (16 layers, on an H100). The host reads tokens, and logits only where a row's sampling looks at them.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.core.executor import ExecutorBroken
from pitcrew_runtime.execution.gpu.arena import SLOTS, Arena, layout
from pitcrew_runtime.execution.gpu.device import Gpu, GpuFailed, Graph
from pitcrew_runtime.execution.gpu.graphs import GraphCache
from pitcrew_runtime.execution.gpu.kernels import Kernels, tokens_of
from pitcrew_runtime.execution.gpu.plan import DECODE, PREFILL, Program
from pitcrew_runtime.execution.gpu.shapes import (
    Bounds,
    Capacity,
    Shape,
    aligned,
    nobodys,
    shape_of,
)
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.packing import INPUTS, Packed
from pitcrew_runtime.execution.program import check_inputs, new_name

_LOGITS = "logits"


class Scratch:
    """What runs need beside weights and pools, so that pools get what this leaves."""

    def __init__(self, gpu: Gpu, capacity: Capacity, pool: PoolShape, vocabulary: int) -> None:
        self.capacity, self.vocabulary = capacity, vocabulary
        self.stride = aligned(capacity.tokens * pool.token_bytes)
        """Bytes from the new keys or values of one layer to the next."""
        self.made = gpu.zeros(len(pool.names) * self.stride, "memory for new keys and values")
        self.arena = gpu.zeros(capacity.arena, "memory for inputs")
        self.logits = gpu.zeros(4 * capacity.logits * vocabulary, "memory for logits")
        self.best = gpu.zeros(8 * capacity.logits, "memory for tokens")
        self.given = gpu.pinned(capacity.arena // 8, np.int64)
        self.read = gpu.pinned(capacity.logits * vocabulary, np.float32)
        self.chosen = gpu.pinned(capacity.logits, np.uint64)


class PlanNetwork:
    """A `Network`, or a rank's `Part` of one, of an engine that takes no adapters."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        plan: Program,
        scratch: Scratch,
        bounds: Bounds,
        pool: PoolShape,
    ) -> None:
        """Raises `NotEnoughMemory`, and `EngineIncompatible` where the plan has other inputs."""
        check_inputs(plan.inputs, {*INPUTS, *pool.names})
        self._gpu, self._kernels, self._plan, self._scratch = gpu, kernels, plan, scratch
        self._bounds, self._pool = bounds, pool
        self._stride = aligned(pool.pages * pool.page_bytes)
        self._pools = gpu.zeros(len(pool.names) * self._stride, "the KV pool")
        self._graphs: GraphCache[Graph] = GraphCache(gpu.drop)
        self._given = Arena(scratch.given, pool.page_size)
        self._fault: str | None = None
        self._lock = threading.Lock()
        self._bind()

    @property
    def pages(self) -> int:
        """Pages in the pools."""
        return self._pool.pages

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return self._pool.page_size

    @property
    def wanted(self) -> int:
        """See `Network`."""
        return self._bounds.wanted

    @property
    def fault(self) -> str | None:
        """What the driver said when it failed: nothing on the GPU can be relied on after that."""
        return self._fault

    def close(self) -> None:
        """Free the GPU's memory."""
        with self._lock:
            if self._fault is None:
                self._fault = "the network was closed"
                self._gpu.enter()
                self._graphs.clear()
                self._plan.close()
                self._gpu.close()

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `Network`. Raises `ExecutorBroken`."""
        if not pairs:
            return
        with self._working():
            for pair in pairs:
                self._kernels.copy_page(
                    self._pools, self._stride, len(self._pool.names), pair, self._pool.page_bytes
                )

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        """See `Network`: there are none."""

    def warm(self, shapes: Sequence[Shape]) -> None:
        """Meet shapes now, which takes longer the first time."""
        for shape in shapes:
            self.likeliest(nobodys(shape, self.page_size))

    def run(self, packed: Packed) -> NDArray[np.float32]:
        """See `Network`. Raises `ExecutorBroken`, and `RuntimeError` where TensorRT refuses a run."""
        dims = (*packed.inputs["logit_indices"].shape, self._scratch.vocabulary)
        count = int(np.prod(dims))
        with self._working():
            self._start(packed)
            self._gpu.download(self._scratch.read, self._scratch.logits, 4 * count)
            self._gpu.wait()
        return self._scratch.read[:count].reshape(dims)

    def likeliest(self, packed: Packed) -> NDArray[np.int64]:
        """See `Network`. Raises as `run`."""
        dims = packed.inputs["logit_indices"].shape
        self.compute(packed)
        return tokens_of(self._scratch.chosen[: int(np.prod(dims))]).reshape(dims)

    def compute(self, packed: Packed) -> None:
        """See `Part`. Raises as `run`."""
        with self._working():
            self._start(packed)
            self._gpu.wait()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Of one thread at a time, and until the driver fails."""
        with self._lock:
            if self._fault is not None:
                raise ExecutorBroken(self._fault)
            try:
                self._gpu.enter()
                yield
            except GpuFailed as error:
                self._fault = str(error)
                raise ExecutorBroken(self._fault) from error

    def _bind(self) -> None:
        """What lies at one place for good."""
        addresses = {_LOGITS: self._scratch.logits}
        for index, name in enumerate(self._pool.names):
            addresses[name] = self._pools + index * self._stride
            addresses[new_name(name)] = self._scratch.made + index * self._scratch.stride
        shapes = dict.fromkeys(self._pool.names, self._pool.dims)
        for profile in (PREFILL, DECODE):
            self._plan.place(profile, addresses, shapes)

    def _start(self, packed: Packed) -> None:
        """Everything up to the tokens, not waited for."""
        shape = shape_of(packed, self.page_size, self._bounds)
        self._scratch.capacity.check(shape)
        self._given.fill(packed, shape)
        graph = self._graphs.get(shape)
        if graph is not None:
            self._gpu.replay(graph)
            return
        places, _ = layout(shape)
        addresses = {name: self._scratch.arena + places[name].offset for name in shape.inputs}
        profile = DECODE if shape.decodes else PREFILL
        self._plan.place(profile, addresses, shape.inputs)
        enqueue = partial(self._enqueue, profile, shape)
        enqueue()
        # TensorRT makes room for a new shape in its first run, which must not be captured.
        self._gpu.wait()
        self._graphs.put(shape, self._gpu.captured(enqueue))

    def _enqueue(self, profile: int, shape: Shape) -> None:
        scratch, pool = self._scratch, self._pool
        places, nbytes = layout(shape)
        rows = shape.batch * shape.wanted
        self._gpu.upload(scratch.arena, scratch.given, nbytes)
        self._plan.enqueue(profile)
        self._kernels.store(
            self._pools,
            scratch.made,
            scratch.arena + places[SLOTS].offset,
            strides=(self._stride, scratch.stride),
            size=(shape.batch * shape.new, len(pool.names), pool.token_bytes),
        )
        self._kernels.likeliest(scratch.logits, scratch.best, rows, scratch.vocabulary)
        self._gpu.download(scratch.chosen, scratch.best, 8 * rows)
