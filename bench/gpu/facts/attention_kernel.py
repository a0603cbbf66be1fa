"""The attention kernel without TensorRT: against numpy in float64, and its speed.

The floor is the bytes of keys and values, read once, at the speed at which this GPU copies. Where
PyTorch is installed its attention is timed beside, over keys and values that lie side by side.
"""

import argparse
import ctypes
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import ml_dtypes
import numpy as np
from copying import copied, spread
from cuda.bindings import runtime as cuda
from kernels import Kernel
from paged_case import Arrays, Heads
from saying import Fact
from session import Buffer, check, gpu

from pitcrew_builder.targets.trt.attention import launch
from pitcrew_builder.targets.trt.gpu import compute_capability
from pitcrew_builder.targets.trt.nvrtc import compiled

TYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
BOUNDS = {"fp16": 1e-3, "bf16": 6e-3}
CAPABILITY = int((compute_capability() or "sm90").removeprefix("sm"))
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
    (Heads(32, 8, 64), 150),
    (Heads(8, 8, 128), 67),
    (Heads(8, 4, 256, page=32), 70),
    (Heads(6, 2, 32, page=7), 90),
]
CASES += [
    (replace(heads, **kind), new)
    for kind in ({"cap": 2.0}, {"sinks": True})
    for heads, new in (CASES[0], CASES[2], CASES[9], CASES[11], CASES[14])
]
CONTEXTS = [np.array([0, 1, 37]), np.array([100, 513, 290]), np.array([2000]), np.arange(40) * 9]
TIMED = [Heads(32, 8, 64), Heads(32, 8, 128)]


def main() -> None:
    """Right first, then fast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 4096, 32768])
    parser.add_argument("--right-only", action="store_true", help="time nothing")
    options = parser.parse_args()
    check(cuda.cudaFree(0))
    fact = Fact("attention kernel")
    for precision in TYPES:
        verify_all(fact, precision)
    if not options.right_only:
        time_all(fact, options)
    fact.end()


def verify_all(fact: Fact, precision: str) -> None:
    """Every case, with and without a sliding window."""
    errors = [
        verify(fact, heads, new, precision, contexts, window)
        for heads, new in CASES
        for contexts in CONTEXTS
        if len(contexts) * new < 3000
        for window in (None, 33)
    ]
    told = f"{precision}: {len(errors)} cases against float64, largest error {max(errors):.1e}"
    fact.check(told, max(errors) < BOUNDS[precision])


def time_all(fact: Fact, options: argparse.Namespace) -> None:
    """Decoding, then prefill."""
    bandwidth = copied()
    fact.say("copy on the GPU, read and written", f"{bandwidth / 1e12:.2f} TB/s")
    for heads in TIMED:
        for context in options.context:
            for batch in options.batch:
                if heads.kv_bytes(batch, context) < 5 << 30:
                    time_decoding(fact, heads, batch, context, bandwidth)
    for heads in TIMED:
        for new, context in ((512, 0), (2048, 0), (2048, 6144)):
            time_prefill(fact, heads, new, context)


@dataclass(frozen=True)
class Attention:
    """The kernel, compiled for one kind of heads."""

    heads: launch.Heads
    kernel: Kernel

    @classmethod
    @cache
    def of(cls, heads: Heads, precision: str) -> "Attention":
        """As a plan holds it."""
        told = launch.Heads(
            heads=heads.heads,
            kv_heads=heads.kv_heads,
            head_dim=heads.head_dim,
            page=heads.page,
            bfloat16=precision == "bf16",
            capped=heads.cap is not None,
            sinks=heads.sinks,
        )
        code = compiled(launch.__package__, launch.SOURCE, told.defines(CAPABILITY), CAPABILITY)
        return cls(told, Kernel(code, launch.ENTRY))

    def run(
        self, tensors: list[Buffer], out: Buffer, batch: int, new: int, blocks: int, stream: int = 0
    ) -> None:
        """Enqueue it."""
        call = self.heads.launch(batch, new, CAPABILITY)
        sizes = [ctypes.c_int(size) for size in (call.units, new, blocks, call.parts)]
        addresses = [tensor.address for tensor in tensors]
        grid = (call.grid, 1, 1)
        self.kernel.launch(grid, call.threads, stream, *addresses, *sizes, out.address)


def verify(
    fact: Fact, heads: Heads, new: int, precision: str, contexts: np.ndarray, window: int | None
) -> float:
    """The error against float64 over the rounded tensors; the output is poisoned before."""
    dtype = TYPES[precision]
    feeds = rounded(heads.inputs(len(contexts), new, contexts, window, seed=new), dtype)
    tensors = [Buffer.of(array) for array in feeds.values()]
    out = Buffer.of(np.full(feeds["queries"].shape, np.nan, dtype))
    blocks = feeds["block_tables"].shape[1]
    Attention.of(heads, precision).run(tensors, out, len(contexts), new, blocks)
    check(cuda.cudaDeviceSynchronize())
    found = out.read(feeds["queries"].shape, dtype).astype(np.float64)
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    wanted = heads.reference(wide | {"block_tables": feeds["block_tables"]})
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    if not error < BOUNDS[precision]:
        told = f"{heads} {precision}, {new} new, contexts {contexts.tolist()}, window {window}"
        fact.check(f"{told}: error {error:.1e}", holds=False)
    return error


def rounded(feeds: Arrays, dtype: object) -> Arrays:
    """In half precision, tables as they are."""
    return {
        name: array.astype(np.int64 if name == "block_tables" else dtype)
        for name, array in feeds.items()
    }


def time_decoding(fact: Fact, heads: Heads, batch: int, context: int, bandwidth: float) -> None:
    """One shape: this kernel, PyTorch's, and the floor."""
    size = heads.kv_bytes(batch, context)
    copies = max(1, min(TURNS, WORKING_SET // size))
    mine = own_time(heads, batch, 1, context, copies)
    other = torch_time(heads, batch, 1, context, copies)
    floor = size / bandwidth * 1e6
    fact.say(
        f"head {heads.head_dim:3} batch {batch:3} context {context:5}",
        f"{mine:7.1f} us, floor {floor:7.1f} us = {floor / mine:.0%}{beside(mine, other)}",
    )


def time_prefill(fact: Fact, heads: Heads, new: int, context: int) -> None:
    """Many new tokens of one sequence after a context."""
    mine = own_time(heads, 1, new, context, 1)
    other = torch_time(heads, 1, new, context, 1)
    products = 4 * heads.width * new * (context + new / 2)
    fact.say(
        f"head {heads.head_dim:3} new {new:4} context {context:5}",
        f"{mine:7.1f} us, {products / mine / 1e6:.0f} TFLOP/s{beside(mine, other)}",
    )


def beside(mine: float, other: float | None) -> str:
    """PyTorch's time, if there is one."""
    return f", PyTorch {other:7.1f} us = {other / mine:.2f}x" if other else ""


def own_time(heads: Heads, batch: int, new: int, context: int, copies: int) -> float:
    """Microseconds a call of this kernel, replayed in a CUDA graph."""
    attention = Attention.of(heads, "fp16")
    blocks = context // heads.page
    pages = max(1, batch * blocks * copies)
    order = np.random.default_rng(0).permutation(pages)[: batch * blocks * copies]
    tables = [Buffer.of(table) for table in order.reshape(copies, batch, blocks)]
    page = heads.page * heads.kv_width * 2
    widths = (heads.width, heads.kv_width, heads.kv_width)
    fresh = [spread(batch * new * width * 2) for width in widths]
    pools = [spread(pages * page), spread(pages * page)]
    seen = np.arange(context + new) <= context + np.arange(new)[:, None]
    causal = np.where(seen, 0.0, -32752.0).astype(np.float16)
    mask = Buffer.of(np.broadcast_to(causal, (batch, new, context + new)))
    out = Buffer(batch * new * heads.width * 2)
    stream = gpu().stream

    def turns() -> None:
        for turn in range(TURNS):
            tensors = [*fresh, *pools, tables[turn % copies], mask]
            attention.run(tensors, out, batch, new, blocks, stream)

    graph = gpu().captured(turns)
    return microseconds(lambda: gpu().replay(graph), stream)


def torch_time(heads: Heads, batch: int, new: int, context: int, copies: int) -> float | None:
    """PyTorch's `scaled_dot_product_attention` likewise; None where it is missing."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    torch.cuda.empty_cache()
    tokens = context if new == 1 else context + new
    shape = (copies, batch, heads.kv_heads, tokens, heads.head_dim)
    keys, values = (torch.randn(shape, dtype=torch.float16, device="cuda") for _ in range(2))
    query_shape = (batch, heads.heads, new, heads.head_dim)
    queries = torch.randn(query_shape, dtype=torch.float16, device="cuda")
    attend = torch.nn.functional.scaled_dot_product_attention
    causal = {}
    if new > 1:
        from torch.nn.attention.bias import causal_lower_right

        causal = {"attn_mask": causal_lower_right(new, tokens)}

    def turns() -> None:
        for turn in range(TURNS):
            at = turn % copies
            attend(queries, keys[at], values[at], enable_gqa=True, **causal)

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
