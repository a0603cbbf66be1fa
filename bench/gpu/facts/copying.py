"""Memory of the GPU filled at its own speed, and that speed."""

import statistics
import time

import numpy as np
from cuda.bindings import runtime as cuda
from session import Buffer, check

KIND = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
PATTERN = 1 << 23


def copied() -> float:
    """Bytes a second, read and written, of a large copy."""
    size = 1 << 30
    source, target = Buffer(size), Buffer(size)
    times = []
    for _ in range(10):
        check(cuda.cudaDeviceSynchronize())
        start = time.perf_counter()
        check(cuda.cudaMemcpyAsync(target.address, source.address, size, KIND, 0))
        check(cuda.cudaDeviceSynchronize())
        times.append(time.perf_counter() - start)
    return 2 * size / statistics.median(times)


def spread(size: int) -> Buffer:
    """`size` bytes of random float16, the same 8 MiB again and again."""
    some = np.random.default_rng(0).standard_normal(PATTERN // 2, dtype=np.float32)
    pattern, whole = Buffer.of(some.astype(np.float16)), Buffer(size)
    for at in range(0, size, PATTERN):
        count = min(PATTERN, size - at)
        check(cuda.cudaMemcpy(whole.address + at, pattern.address, count, KIND))
    return whole
