"""Runs any plan on the GPU of this machine, for measurements and tests; engines are run by `served.py`.

Over the runtime's `Gpu`. Buffers are made anew for each run, unless they are given: it is plain, not fast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from cuda.bindings import runtime as cuda

from pitcrew_runtime.execution.gpu.device import Gpu

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Native: TypeAlias = Any
"""An object of a library without types."""


def check(result: tuple[Native, ...]) -> Native:
    """The value of a CUDA call. Raises `RuntimeError` with the error's name."""
    error, *values = result
    if error != cuda.cudaError_t.cudaSuccess:
        raise RuntimeError(f"CUDA: {error.name}")
    return values[0] if values else None


@cache
def gpu() -> Gpu:
    """Of this process."""
    return Gpu()


class Buffer:
    """Memory of the GPU, freed with the object."""

    def __init__(self, size: int) -> None:
        self.size = max(size, 256)
        self.address = gpu().zeros(self.size, "a buffer")

    @classmethod
    def of(cls, array: Array) -> "Buffer":
        """A copy of an array of the host."""
        buffer = cls(array.nbytes)
        buffer.fill(array)
        return buffer

    def fill(self, array: Array) -> None:
        """Copy from the host."""
        array = np.ascontiguousarray(array)
        if array.nbytes:
            gpu().upload(self.address, array, array.nbytes)
            gpu().wait()

    def read(self, shape: Sequence[int], dtype: Native) -> Array:
        """Copy to the host."""
        array = np.empty(tuple(shape), dtype)
        if array.nbytes:
            gpu().download(array, self.address, array.nbytes)
            gpu().wait()
        return array

    def __del__(self) -> None:
        gpu().free(self.address)


@dataclass(frozen=True)
class Output:
    """As ONNX Runtime names outputs, so that one driver serves both."""

    name: str


class Session:
    """One execution context."""

    def __init__(self, trt: Native, plan: bytes, profile: int = 0) -> None:
        self._trt = trt
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise RuntimeError("the plan cannot be opened here; TensorRT's log says why")
        self.stream = gpu().stream
        self.context = self.engine.create_execution_context()
        self.use(profile)
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        mode = trt.TensorIOMode.INPUT
        self.inputs = [name for name in names if self.engine.get_tensor_mode(name) == mode]
        self.outputs = [name for name in names if name not in self.inputs]
        self.types = {name: _numpy(trt, self.engine.get_tensor_dtype(name)) for name in names}

    def use(self, profile: int) -> None:
        """Choose the optimization profile."""
        if not self.context.set_optimization_profile_async(profile, self.stream):
            raise RuntimeError(f"no profile {profile}")
        self.wait()

    def get_outputs(self) -> list[Output]:
        """Every output."""
        return [Output(name) for name in self.outputs]

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The named outputs; half-precision ones as float32."""
        held = self.bind(feeds)
        self.enqueue()
        self.wait()
        return [self.read(name, held[name]) for name in names]

    def bind(
        self, feeds: Mapping[str, Array | Buffer], **shapes: Sequence[int]
    ) -> dict[str, Buffer]:
        """Set addresses and shapes of all tensors. Keep what is returned until the run is over."""
        held: dict[str, Buffer] = {}
        for name in self.inputs:
            value = feeds[name]
            if isinstance(value, Buffer):
                held[name], shape = value, tuple(shapes[name])
            else:
                held[name] = Buffer.of(np.ascontiguousarray(value).astype(self.types[name]))
                shape = value.shape
            if not self.context.set_input_shape(name, shape):
                raise RuntimeError(f"shape {shape} of {name} is outside the profile")
            self.context.set_tensor_address(name, held[name].address)
        for name in self.outputs:
            size = int(np.prod(self.shape(name))) * np.dtype(self.types[name]).itemsize
            held[name] = Buffer(size)
            self.context.set_tensor_address(name, held[name].address)
        return held

    def shape(self, name: str) -> tuple[int, ...]:
        """With the inputs' shapes as they are bound."""
        return tuple(self.context.get_tensor_shape(name))

    def read(self, name: str, buffer: Buffer) -> Array:
        """An output, half-precision ones as float32."""
        array = buffer.read(self.shape(name), self.types[name])
        return array if array.dtype.kind in "iub" else array.astype(np.float32)

    def enqueue(self) -> None:
        """Raises `RuntimeError`: what is returned must be looked at, or failures pass unseen."""
        if not self.context.execute_async_v3(self.stream):
            raise RuntimeError("enqueue failed; TensorRT's log says why")

    def wait(self) -> None:
        """Until the stream is idle."""
        gpu().wait()


def milliseconds(session: Session, work: Callable[[], object], repeats: int) -> list[float]:
    """The time of each of `repeats` calls, between two events of the stream."""
    start, end = (check(cuda.cudaEventCreate()) for _ in range(2))
    times = []
    for _ in range(repeats):
        check(cuda.cudaEventRecord(start, session.stream))
        work()
        check(cuda.cudaEventRecord(end, session.stream))
        check(cuda.cudaEventSynchronize(end))
        times.append(float(check(cuda.cudaEventElapsedTime(start, end))))
    return times


class Replay:
    """A run of a session as a CUDA graph. What is bound must stay bound."""

    def __init__(self, session: Session, enqueue: Callable[[], None] | None = None) -> None:
        """`enqueue` is what to capture, if it is more than the plan."""
        self._graph = gpu().captured(enqueue or session.enqueue)

    def __call__(self) -> None:
        """Launch it."""
        gpu().replay(self._graph)

    def __del__(self) -> None:
        gpu().drop(self._graph)


def _numpy(trt: Native, dtype: Native) -> Native:
    special = {trt.bfloat16: ml_dtypes.bfloat16, trt.fp8: ml_dtypes.float8_e4m3fn}
    return special.get(dtype) or trt.nptype(dtype)
