"""A GPU of host memory: addresses are real, kernels are NumPy, and the plan is the graph on ONNX Runtime.

As strict as the real one where a mistake would pass unseen: a plan only takes shapes within its profile,
a graph replays what was asked for when it was captured, and its first run of a shape is not captured.
"""

import ctypes
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.execution.gpu.device import GpuFailed
from pitcrew_runtime.execution.gpu.plan import DECODE
from pitcrew_runtime.execution.gpu.shapes import ALIGNMENT, Bounds
from pitcrew_runtime.execution.program import Session

Work = Callable[[], None]
DEADLINE = 60.0


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

    def copy_lines(
        self, target: tuple[int, int], source: tuple[int, int], size: tuple[int, int]
    ) -> None:
        def work() -> None:
            for line in range(size[0]):
                ctypes.memmove(target[0] + line * target[1], source[0] + line * source[1], size[1])

        self.do(work)

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
    """A session in float32 as a plan, or as one of a rank's."""

    def __init__(self, session: Session, gpu: HostGpu, bounds: Bounds) -> None:
        self._session, self._gpu, self._bounds = session, gpu, bounds
        self._kinds = {
            tensor.name: np.int64 if tensor.type == "tensor(int64)" else np.float32
            for tensor in session.get_inputs()
        }
        self.inputs = set(self._kinds)
        self._outputs = [tensor.name for tensor in session.get_outputs()]
        self.outputs = set(self._outputs)
        self._addresses: list[dict[str, int]] = [{}, {}]
        self._shapes: list[dict[str, tuple[int, ...]]] = [{}, {}]

    def place(
        self, profile: int, addresses: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        assert all(address % ALIGNMENT == 0 for address in addresses.values())
        assert shapes.keys() <= self.inputs
        self._addresses[profile] |= addresses
        self._shapes[profile] |= shapes

    def enqueue(self, profile: int) -> None:
        addresses, shapes = dict(self._addresses[profile]), dict(self._shapes[profile])
        most, decodes = self._bounds, profile == DECODE
        if "input_ids" in shapes:
            assert shapes["input_ids"][0] <= most.batch
            assert shapes["input_ids"][1] <= (1 if decodes else most.new)
        if "block_tables" in shapes:
            assert int(decodes) <= shapes["block_tables"][1] <= most.blocks
        if "logit_indices" in shapes:
            assert shapes["logit_indices"][1] <= (1 if decodes else most.wanted)

        def work() -> None:
            feeds = {
                name: at(addresses[name], shapes[name], kind) for name, kind in self._kinds.items()
            }
            for name, value in zip(self._outputs, self._session.run(None, feeds), strict=True):
                at(addresses[name], value.shape, np.float32)[:] = value

        self._gpu.do(work)

    def close(self) -> None:
        """Nothing to free."""


class HostExchanges:
    """What ranks in threads of one process exchange: each waits for the others, and sums for real."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks)
        self._given: dict[int, NDArray[Any]] = {}

    def all(self, rank: int, value: NDArray[Any]) -> list[NDArray[Any]]:
        """Everybody's value, by rank."""
        self._given[rank] = value.copy()
        self._barrier.wait(DEADLINE)
        found = [self._given[one] for one in sorted(self._given)]
        self._barrier.wait(DEADLINE)
        return found

    def leave(self) -> None:
        """Let nobody wait any more."""
        self._barrier.abort()


class HostExchanger:
    """One rank's; its work is captured like any other."""

    def __init__(self, gpu: HostGpu, rank: int, exchanges: HostExchanges) -> None:
        self._gpu, self._rank, self._exchanges = gpu, rank, exchanges
        self.closed = False

    def sum(self, group: tuple[int, ...], given: int, result: int, count: int, kind: str) -> None:
        def work() -> None:
            parts = self._exchanges.all(self._rank, at(given, (count,), np.float32))
            at(result, (count,), np.float32)[:] = sum(parts[1:], parts[0])

        assert kind == "float32"
        self._gpu.do(work)

    def gather(
        self, group: tuple[int, ...], given: int, result: int, size: tuple[int, int], kind: str
    ) -> None:
        rows, width = size

        def work() -> None:
            parts = self._exchanges.all(self._rank, at(given, size, np.float32))
            at(result, (rows, width * len(parts)), np.float32)[:] = np.concatenate(parts, axis=1)

        self._gpu.do(work)

    def close(self) -> None:
        self.closed = True
