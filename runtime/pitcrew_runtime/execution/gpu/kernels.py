"""The kernels of a step, and what they leave for the host to read."""

import ctypes
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from pitcrew_builder.nvrtc import NvrtcMissing, NvrtcRefused, ptx
from pitcrew_runtime.execution.gpu.device import Gpu, GpuUnavailable

CHUNK = 16
"""Bytes that a thread moves at once: tokens in the pools are multiples of it."""

_SOURCE = "kernels.cu"
_THREADS = 256
_BLOCKS = 16
"""Of a row of logits or a page: so a single one has more than one processor."""

_LEAST_ORDER, _MOST_ORDER = 0x007FFFFF, 0xFF800000
"""The orders of minus and plus infinity."""


class Kernels:
    """On one GPU, for pools [pools, pages, page, token]. Raises `GpuUnavailable` without NVRTC."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        code = _compiled(gpu.capability)
        self._store, self._copy, self._likeliest = (
            gpu.kernel(code, name) for name in ("store", "copy_page", "likeliest")
        )

    def store(
        self,
        pools: int,
        made: int,
        slots: int,
        strides: tuple[int, int],
        size: tuple[int, int, int],
    ) -> None:
        """New tokens from `made` into the slots of the pools. Strides are bytes from pool to pool, in
        the pools and in `made`; the size is tokens, pools and bytes of a token.
        """
        pool, one = (stride // CHUNK for stride in strides)
        tokens, count, width = size
        chunks = ctypes.c_int(width // CHUNK)
        arguments = (pools, pool, made, one, slots, chunks)
        self._gpu.launch(self._store, (tokens, count), 64, arguments)

    def copy_page(
        self, pools: int, stride: int, count: int, pair: tuple[int, int], page: int
    ) -> None:
        """The first page of a pair, of `page` bytes, to the second in all `count` pools."""
        arguments = (pools, stride // CHUNK, *pair, ctypes.c_int(page // CHUNK))
        self._gpu.launch(self._copy, (_BLOCKS, count), _THREADS, arguments)

    def likeliest(self, logits: int, best: int, rows: int, width: int) -> None:
        """The best of each row of logits [rows, width] to `best` [rows], for `tokens_of`."""
        self._gpu.clear(best, 8 * rows)
        arguments = (logits, best, ctypes.c_int(width))
        self._gpu.launch(self._likeliest, (_BLOCKS, rows), _THREADS, arguments)


def tokens_of(best: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The tokens that the kernel found; -1 where the best logit is not finite."""
    order = best >> np.uint64(32)
    tokens = (~best & np.uint64(0xFFFFFFFF)).astype(np.int64)
    finite = (order > _LEAST_ORDER) & (order < _MOST_ORDER)
    return np.where(finite, tokens, -1)


def _compiled(capability: str) -> bytes:
    """PTX for GPUs of a generation such as `sm90`."""
    source = files(__package__).joinpath(_SOURCE).read_bytes()
    architecture = capability.replace("sm", "compute_")
    try:
        return ptx(source, _SOURCE, [f"--gpu-architecture={architecture}"])
    except (NvrtcMissing, NvrtcRefused) as error:
        raise GpuUnavailable(f"NVRTC, which compiles kernels: {error}") from error
