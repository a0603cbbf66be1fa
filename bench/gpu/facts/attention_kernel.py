"""The attention kernel without TensorRT: against numpy in float64, and its speed.

The floor is the bytes of keys and values, read once, at the speed at which this GPU copies. Where
PyTorch is installed its attention is timed beside, over keys and values that lie side by side.
"""

import argparse
import ctypes
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import ml_dtypes
import numpy as np
from copying import copied, spread
from cuda.bindings import runtime as cuda
from kernels import Kernel, ptx
from paged_case import Arrays, Heads
from saying import Fact
from session import Buffer, check

TYPES = {"fp16": ("half", np.float16), "bf16": ("__nv_bfloat16", ml_dtypes.bfloat16)}
BOUNDS = {"fp16": 2e-3, "bf16": 1e-2}
CLUSTER = 8
ROWS = 16
STAGES = 3
STATIC = 48 << 10
"""Bytes of shared memory that a kernel may have without asking."""

REPEATS = 7
TURNS = 20
"""Calls in one CUDA graph."""
WORKING_SET = 1 << 29
"""Bytes that the timed calls go through, so that none finds its own in the cache."""

CASES = [
    (Heads(32, 8, 64), 1),
    (Heads(32, 8, 64), 5),
    (Heads(32, 8, 128), 1),
    (Heads(4, 2, 16), 3),
    (Heads(8, 8, 32), 1),
    (Heads(40, 8, 80), 2),
    (Heads(24, 8, 96), 1),
    (Heads(8, 4, 256), 1),
    (Heads(64, 8, 64), 7),
    (Heads(6, 2, 32, page=7), 2),
    (Heads(32, 8, 128, page=64), 40),
]
WARPS = {64: (4, 8, 12), 128: (2, 4, 6)}
TIMED = [Heads(32, 8, 64), Heads(32, 8, 128)]


def main() -> None:
    """Right first, then fast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 4096, 32768])
    options = parser.parse_args()
    check(cuda.cudaFree(0))
    fact = Fact("attention kernel")
    for heads, new in CASES:
        for precision in TYPES:
            for contexts in (np.array([0, 1, 37]), np.array([100, 513, 290])):
                for parts in (1, 2, 8):
                    verify(fact, heads, new, precision, contexts, parts)
    bandwidth = copied()
    fact.say("copy on the GPU, read and written", f"{bandwidth / 1e12:.2f} TB/s")
    for heads in TIMED:
        for context in options.context:
            for batch in options.batch:
                if heads.kv_bytes(batch, context) < 5 << 30:
                    time_one(fact, heads, batch, context, bandwidth)
    fact.end()


@dataclass(frozen=True)
class Attention:
    """The kernel, compiled for one kind of heads."""

    heads: Heads
    precision: str
    kernel: Kernel
    warps: int

    @classmethod
    @cache
    def of(cls, heads: Heads, precision: str, warps: int = 0) -> "Attention":
        """Compiled; without `warps`, with as many as the memory of every kernel allows."""
        warps = warps or max(1, min(4, 256 // heads.head_dim))
        shared = warps * STAGES * 2 * ROWS * heads.head_dim * 2
        code = ptx(
            Path(__file__).with_name("attention.cu").read_text(),
            "attention.cu",
            T=TYPES[precision][0],
            HEADS=heads.heads,
            KV_HEADS=heads.kv_heads,
            HEAD_DIM=heads.head_dim,
            PAGE=heads.page,
            SCALE=f"{heads.head_dim**-0.5!r}f",
            CLUSTER=CLUSTER,
            WARPS=warps,
            SHARED_LATER=int(shared > STATIC),
        )
        kernel = Kernel(code, "paged_attention", shared if shared > STATIC else 0)
        return cls(heads, precision, kernel, warps)

    def run(
        self,
        tensors: list[Buffer],
        out: Buffer,
        batch: int,
        new: int,
        blocks: int,
        parts: int,
        stream: int = 0,
    ) -> None:
        """Enqueue it; `parts` blocks share a unit of work."""
        group = self.heads.heads // self.heads.kv_heads
        units = batch * -(-new * group // ROWS) * self.heads.kv_heads
        grid = (-(-units * parts // CLUSTER) * CLUSTER, 1, 1)
        sizes = [ctypes.c_int(size) for size in (units, new, blocks, parts)]
        addresses = [tensor.address for tensor in tensors]
        self.kernel.launch(grid, 32 * self.warps, stream, *addresses, *sizes, out.address)


def verify(
    fact: Fact, heads: Heads, new: int, precision: str, contexts: np.ndarray, parts: int
) -> None:
    """Against float64 over the rounded tensors; the output is poisoned before."""
    dtype = TYPES[precision][1]
    feeds = rounded(heads.inputs(len(contexts), new, contexts, seed=new), dtype)
    tensors = [Buffer.of(array) for array in feeds.values()]
    out = Buffer.of(np.full(feeds["queries"].shape, np.nan, dtype))
    blocks = feeds["block_tables"].shape[1]
    Attention.of(heads, precision).run(tensors, out, len(contexts), new, blocks, parts)
    check(cuda.cudaDeviceSynchronize())
    found = out.read(feeds["queries"].shape, dtype).astype(np.float64)
    wanted = heads.reference(
        {
            name: array.astype(np.float64) if array.dtype == dtype else array
            for name, array in feeds.items()
        }
    )
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    told = f"{heads} {precision}, {new} new, contexts {contexts.tolist()}, {parts} parts: error {error:.1e}"
    if error < BOUNDS[precision]:
        return
    fact.check(told, bool(error < BOUNDS[precision]))


def rounded(feeds: Arrays, dtype: object) -> Arrays:
    """In half precision, tables as they are."""
    return {
        name: array.astype(np.int64 if name == "block_tables" else dtype)
        for name, array in feeds.items()
    }


def time_one(fact: Fact, heads: Heads, batch: int, context: int, bandwidth: float) -> None:
    """One shape: this kernel, PyTorch's, and the floor."""
    size = heads.kv_bytes(batch, context)
    copies = max(1, min(TURNS, WORKING_SET // size))
    times = {
        (warps, parts): own_time(heads, batch, context, copies, warps, parts)
        for warps in WARPS[heads.head_dim]
        for parts in (1, 2, 4, 8)
    }
    mine = min(times.values())
    table = " ".join(f"{w}w{p}p:{t:.1f}" for (w, p), t in times.items())
    other = torch_time(heads, batch, context, copies)
    floor = size / bandwidth * 1e6
    beside = f", PyTorch {other:7.1f} us = {other / mine:.2f}x" if other else ""
    fact.say(
        f"head {heads.head_dim:3} batch {batch:3} context {context:5}",
        f"{mine:7.1f} us, floor {floor:7.1f} us = {floor / mine:.0%}{beside} | {table}",
    )


def own_time(heads: Heads, batch: int, context: int, copies: int, warps: int, parts: int) -> float:
    """Microseconds a call of this kernel, replayed in a CUDA graph."""
    attention = Attention.of(heads, "fp16", warps)
    blocks = context // heads.page
    pages = batch * blocks * copies
    order = np.random.default_rng(0).permutation(pages).reshape(copies, batch, blocks)
    tables = [Buffer.of(table) for table in order]
    page = heads.page * heads.kv_width * 2
    widths = (heads.width, heads.kv_width, heads.kv_width)
    fresh = [spread(batch * width * 2) for width in widths]
    pools = [spread(pages * page), spread(pages * page)]
    mask = Buffer.of(np.zeros((batch, context + 1), np.float16))
    out = Buffer(batch * heads.width * 2)
    stream = int(check(cuda.cudaStreamCreate()))
    mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    check(cuda.cudaStreamBeginCapture(stream, mode))
    for turn in range(TURNS):
        tensors = [*fresh, *pools, tables[turn % copies], mask]
        attention.run(tensors, out, batch, 1, blocks, parts, stream)
    graph = check(cuda.cudaGraphInstantiate(check(cuda.cudaStreamEndCapture(stream)), 0))
    return microseconds(lambda: check(cuda.cudaGraphLaunch(graph, stream)), stream)


def torch_time(heads: Heads, batch: int, context: int, copies: int) -> float | None:
    """PyTorch's `scaled_dot_product_attention` likewise; None where it is missing."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    torch.cuda.empty_cache()
    shape = (copies, batch, heads.kv_heads, context, heads.head_dim)
    keys, values = (torch.randn(shape, dtype=torch.float16, device="cuda") for _ in range(2))
    query_shape = (batch, heads.heads, 1, heads.head_dim)
    queries = torch.randn(query_shape, dtype=torch.float16, device="cuda")
    attend = torch.nn.functional.scaled_dot_product_attention

    def turns() -> None:
        for turn in range(TURNS):
            at = turn % copies
            attend(queries, keys[at], values[at], enable_gqa=True)

    turns()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        turns()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        return microseconds(graph.replay, stream.cuda_stream)


def microseconds(launch: Callable[[], object], stream: int) -> float:
    """The median over graphs of the time of one of their calls."""
    start, end = (check(cuda.cudaEventCreate()) for _ in range(2))
    times = []
    for _ in range(REPEATS):
        check(cuda.cudaEventRecord(start, stream))
        launch()
        check(cuda.cudaEventRecord(end, stream))
        check(cuda.cudaEventSynchronize(end))
        times.append(float(check(cuda.cudaEventElapsedTime(start, end))))
    return statistics.median(times) / TURNS * 1e3


if __name__ == "__main__":
    main()
