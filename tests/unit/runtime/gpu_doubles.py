"""A GPU of host memory: addresses are real, kernels are NumPy, and the plan is the graph on ONNX Runtime.

As strict as the real one where a mistake would pass unseen: a plan only takes shapes within its profile,
a graph replays what was asked for when it was captured, and its first run of a shape is not captured.
"""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.execution.gpu.device import GpuFailed
from pitcrew_runtime.execution.gpu.plan import DECODE
from pitcrew_runtime.execution.gpu.shapes import ALIGNMENT, Bounds
from pitcrew_runtime.execution.program import Session

Work = Callable[[], None]


def at(address: int, dims: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
    """Memory as an array."""
    assert address % np.dtype(kind).itemsize == 0
    size = int(np.prod(dims)) * np.dtype(kind).itemsize
    memory = memoryview((ctypes.c_uint8 * size).from_address(address))
    return np.frombuffer(memory, kind).reshape(dims)


class HostGpu:
    """Does at once what the real one queues, but what is captured waits for its replay."""

    def __init__(self) -> None:
        self.held: list[NDArray[Any]] = []
        self.recorded: list[Work] | None = None
        self.captures = self.replays = 0
        self.broken = False

    def enter(self) -> None:
        if self.broken:
            raise GpuFailed("CUDA: CUDA_ERROR_ILLEGAL_ADDRESS")

    def zeros(self, nbytes: int, what: str) -> int:
        self.held.append(np.zeros(nbytes + 2 * ALIGNMENT, np.uint8))
        address = self.held[-1].ctypes.data
        return -(-address // ALIGNMENT) * ALIGNMENT

    def pinned(self, count: int, kind: type[np.generic]) -> NDArray[Any]:
        return np.full(count, 77, kind)

    def do(self, work: Work) -> None:
        """Now, or in a replay."""
        work() if self.recorded is None else self.recorded.append(work)

    def upload(self, address: int, array: NDArray[Any], nbytes: int) -> None:
        self.do(lambda: ctypes.memmove(address, array.ctypes.data, nbytes) and None)

    def download(self, array: NDArray[Any], address: int, nbytes: int) -> None:
        self.do(lambda: ctypes.memmove(array.ctypes.data, address, nbytes) and None)

    def wait(self) -> None:
        assert self.recorded is None, "waiting cannot be captured"

    def captured(self, work: Work) -> list[Work]:
        self.captures += 1
        self.recorded = graph = []
        work()
        self.recorded = None
        return graph

    def replay(self, graph: list[Work]) -> None:
        self.replays += 1
        for work in graph:
            work()

    def drop(self, graph: list[Work]) -> None:
        graph.clear()

    def close(self) -> None:
        self.held.clear()


class HostKernels:
    """The three kernels."""

    def __init__(self, gpu: HostGpu) -> None:
        self._gpu = gpu

    def store(
        self,
        pools: int,
        made: int,
        slots: int,
        strides: tuple[int, int],
        size: tuple[int, int, int],
    ) -> None:
        tokens, count, width = size

        def work() -> None:
            for slot, token in zip(
                at(slots, (tokens,), np.int64).tolist(), range(tokens), strict=True
            ):
                for pool in range(count if slot >= 0 else 0):
                    target = pools + pool * strides[0] + slot * width
                    ctypes.memmove(target, made + pool * strides[1] + token * width, width)

        self._gpu.do(work)

    def copy_page(
        self, pools: int, stride: int, count: int, pair: tuple[int, int], page: int
    ) -> None:
        def work() -> None:
            for pool in range(count):
                base = pools + pool * stride
                ctypes.memmove(base + pair[1] * page, base + pair[0] * page, page)

        self._gpu.do(work)

    def likeliest(self, logits: int, best: int, rows: int, width: int) -> None:
        def work() -> None:
            values = at(logits, (rows, width), np.float32) + np.float32(0)
            bits = values.view(np.uint32)
            order = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
            order[np.isnan(values)] = 0xFFFFFFFF
            tokens = np.uint64(0xFFFFFFFF) - np.arange(width, dtype=np.uint64)
            at(best, (rows,), np.uint64)[:] = (order << np.uint64(32) | tokens).max(axis=-1)

        self._gpu.do(work)


class HostPlan:
    """A session in float32 as a plan."""

    def __init__(self, session: Session, gpu: HostGpu, bounds: Bounds) -> None:
        self._session, self._gpu, self._bounds = session, gpu, bounds
        self.inputs = {tensor.name for tensor in session.get_inputs()}
        self._outputs = {tensor.name: tensor.shape for tensor in session.get_outputs()}
        self._addresses: list[dict[str, int]] = [{}, {}]
        self._shapes: list[dict[str, tuple[int, ...]]] = [{}, {}]

    def place(
        self, profile: int, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        assert all(address % ALIGNMENT == 0 for address in addresses.values())
        self._addresses[profile] |= addresses
        self._shapes[profile] |= shapes

    def enqueue(self, profile: int) -> None:
        addresses, shapes = dict(self._addresses[profile]), dict(self._shapes[profile])
        (batch, new), blocks = shapes["input_ids"], shapes["block_tables"][1]
        wanted = shapes["logit_indices"][1]
        most = self._bounds
        assert batch <= most.batch
        assert new <= (1 if profile == DECODE else most.new)
        assert (1 if profile == DECODE else 0) <= blocks <= most.blocks
        assert wanted <= (1 if profile == DECODE else most.wanted)

        def work() -> None:
            feeds = {}
            for name in self.inputs:
                kind = np.float32 if "pool" in name else np.int64
                feeds[name] = at(addresses[name], shapes[name], kind)
            for name, value in zip(self._outputs, self._session.run(None, feeds), strict=True):
                at(addresses[name], value.shape, np.float32)[:] = value

        self._gpu.do(work)

    def close(self) -> None:
        """Nothing to free."""
