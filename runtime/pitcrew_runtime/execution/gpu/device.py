"""One GPU, by CUDA's driver API: memory, one stream, graphs and kernels. Knows nothing of networks.

Everything is done in the order of one stream. Addresses are plain integers, as TensorRT takes them.
"""

import ctypes
import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pitcrew_runtime.errors import NotEnoughMemory

Native: TypeAlias = Any
"""A module or an object of a library without types."""


class GpuUnavailable(Exception):
    """There is no GPU, no driver, or nothing to speak to it with; the message says which."""


class GpuFailed(Exception):
    """A call of the driver failed: what lies on the GPU is not to be relied on any more."""


def gpu_count() -> int:
    """GPUs that this process may use. Raises `GpuUnavailable`."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
        (error,) = driver.cuInit(0)
        if error == driver.CUresult.CUDA_ERROR_NO_DEVICE:
            return 0
        error, count = driver.cuDeviceGetCount()
    except (ImportError, RuntimeError) as problem:
        raise GpuUnavailable(str(problem)) from problem
    if error != driver.CUresult.CUDA_SUCCESS:
        raise GpuUnavailable(f"CUDA: {error.name}")
    return int(count)


class Graph:
    """What was captured once."""

    def __init__(self, native: Native) -> None:
        self.native = native


class Kernel:
    """One function of a module of PTX. Arguments are addresses, 64-bit, or 32-bit `ctypes.c_int`."""

    def __init__(self, native: Native) -> None:
        self.native = native


class Gpu:
    """The `index`-th GPU that this process may use. Raises `GpuUnavailable`."""

    def __init__(self, index: int = 0) -> None:
        try:
            self._driver = importlib.import_module("cuda.bindings.driver")
            self._check(self._driver.cuInit(0))
            self._device = self._check(self._driver.cuDeviceGet(index))
            self._context = self._check(self._driver.cuDevicePrimaryCtxRetain(self._device))
        except (ImportError, RuntimeError, GpuFailed) as error:
            # The bindings raise a RuntimeError of their own where there is no driver.
            raise GpuUnavailable(str(error)) from error
        self.enter()
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = self._check(self._driver.cuStreamCreate(flags))
        self._held: list[int] = []
        self._pinned: list[int] = []

    def enter(self) -> None:
        """Make the calls of this thread go to this GPU."""
        self._check(self._driver.cuCtxSetCurrent(self._context))

    @property
    def capability(self) -> str:
        """Its generation, such as `sm90`."""
        kinds = self._driver.CUdevice_attribute
        major, minor = (
            self._check(self._driver.cuDeviceGetAttribute(kind, self._device))
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return f"sm{major}{minor}"

    @property
    def free_memory(self) -> int:
        """Bytes."""
        return int(self._check(self._driver.cuMemGetInfo())[0])

    @property
    def stream(self) -> int:
        """As TensorRT takes it."""
        return int(self._stream)

    def zeros(self, nbytes: int, what: str) -> int:
        """The address of so many zero bytes of the GPU. Raises `NotEnoughMemory`, naming `what`."""
        error, address = self._driver.cuMemAlloc(max(1, nbytes))
        if error == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise NotEnoughMemory(
                f"{what} of {nbytes} bytes could not be allocated, and {self.free_memory} bytes of the "
                "GPU are free: lower --kv-memory or --max-batch-size, or leave the GPU to one server"
            )
        self._check((error,))
        self._held.append(int(address))
        self.clear(int(address), max(1, nbytes))
        self.wait()
        return int(address)

    def free(self, address: int) -> None:
        """Give back what `zeros` gave."""
        self._held.remove(address)
        self._driver.cuMemFree(address)

    def pinned(self, count: int, kind: type[np.generic]) -> NDArray[Any]:
        """An array [count] of the host that the GPU copies from and to without a detour."""
        nbytes = max(1, count) * np.dtype(kind).itemsize
        address = int(self._check(self._driver.cuMemHostAlloc(nbytes, 0)))
        self._pinned.append(address)
        memory = memoryview((ctypes.c_uint8 * nbytes).from_address(address))
        return np.frombuffer(memory, kind)

    def clear(self, address: int, nbytes: int) -> None:
        """Make bytes zero."""
        self._check(self._driver.cuMemsetD8Async(address, 0, nbytes, self._stream))

    def upload(self, address: int, array: NDArray[Any], nbytes: int) -> None:
        """Copy the beginning of an array to the GPU: of a pinned one, while the host goes on."""
        self._check(
            self._driver.cuMemcpyHtoDAsync(address, array.ctypes.data, nbytes, self._stream)
        )

    def download(self, array: NDArray[Any], address: int, nbytes: int) -> None:
        """Copy to the beginning of an array; it is there after `wait`."""
        self._check(
            self._driver.cuMemcpyDtoHAsync(array.ctypes.data, address, nbytes, self._stream)
        )

    def copy_lines(
        self, target: tuple[int, int], source: tuple[int, int], size: tuple[int, int]
    ) -> None:
        """Copy lines within the GPU. Each end is an address and the bytes from line to line; the size is
        lines and their bytes.
        """
        copy = self._driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = self._driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.dstDevice, copy.dstPitch = target
        copy.srcDevice, copy.srcPitch = source
        copy.Height, copy.WidthInBytes = size
        self._check(self._driver.cuMemcpy2DAsync(copy, self._stream))

    def wait(self) -> None:
        """Until everything is done."""
        self._check(self._driver.cuStreamSynchronize(self._stream))

    def kernel(self, ptx: bytes, name: str) -> Kernel:
        """Load one function. The driver compiles it for this GPU."""
        module = self._check(self._driver.cuModuleLoadData(ptx))
        return Kernel(self._check(self._driver.cuModuleGetFunction(module, name.encode())))

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int],
        threads: int,
        arguments: Sequence[int | ctypes.c_int],
    ) -> None:
        """Run a kernel with a grid of blocks [x, y]."""
        values = tuple(a.value if isinstance(a, ctypes.c_int) else a for a in arguments)
        kinds = tuple(
            ctypes.c_int if isinstance(a, ctypes.c_int) else ctypes.c_void_p for a in arguments
        )
        self._check(
            self._driver.cuLaunchKernel(
                kernel.native, *grid, 1, threads, 1, 1, 0, self._stream, (values, kinds), 0
            )
        )

    def captured(self, work: Callable[[], None]) -> Graph:
        """What `work` asks of the stream, as a graph. It is not run."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._check(self._driver.cuStreamBeginCapture(self._stream, mode))
        try:
            work()
        finally:
            # A capture that failed has to be ended too, or the stream is of no use.
            ended = self._driver.cuStreamEndCapture(self._stream)
        captured = self._check(ended)
        graph = Graph(self._check(self._driver.cuGraphInstantiate(captured, 0)))
        self._check(self._driver.cuGraphDestroy(captured))
        return graph

    def replay(self, graph: Graph) -> None:
        """Run a graph."""
        self._check(self._driver.cuGraphLaunch(graph.native, self._stream))

    def drop(self, graph: Graph) -> None:
        """Forget a graph."""
        self._driver.cuGraphExecDestroy(graph.native)

    def close(self) -> None:
        """Free all memory. Arrays of it must not be touched any more."""
        self.enter()
        for address in self._held:
            self._driver.cuMemFree(address)
        for address in self._pinned:
            self._driver.cuMemFreeHost(address)
        self._held, self._pinned = [], []

    def _check(self, result: tuple[Native, ...]) -> Native:
        error, *values = result
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise GpuFailed(f"CUDA: {error.name}")
        return values[0] if len(values) == 1 else values
