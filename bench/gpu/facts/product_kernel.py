"""The kernel for products without TensorRT: against float64, and its speed beside PyTorch's.

Needs PyTorch. The floor of a product with few rows is the bytes of its matrix, read once, at the speed at
which this GPU copies.
"""

import argparse
import ctypes
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from copying import copied
from cuda.bindings import runtime as cuda
from kernels import Kernel
from saying import Fact
from session import check

from pitcrew_builder.targets.trt.gpu import compute_capability
from pitcrew_builder.targets.trt.norms import launch as norms
from pitcrew_builder.targets.trt.nvrtc import compiled
from pitcrew_builder.targets.trt.products import launch
from pitcrew_builder.targets.trt.products.launch import FEW, Matrix

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
BOUNDS = {"fp16": 1e-3, "bf16": 6e-3}
CAPABILITY = int((compute_capability() or "sm90").removeprefix("sm"))
REPEATS, TURNS = 7, 20
WORKING_SET = 1 << 29
"""Bytes that the timed calls go through, so that none finds its own in the cache."""

SHAPES = [
    (2048, 2048),
    (512, 2048),
    (8192, 2048),
    (2048, 8192),
    (160, 64),
    (64, 160),
    (33, 104),
    (1, 8),
]
SHAPES += [(257, 1000), (4096, 14336)]
ROWS = (1, 3, 8, 9, 16, 31, 33, 100, 128, 129, 300, 1000, 1200)
TIMED = [
    (512, 2048),
    (2048, 2048),
    (8192, 2048),
    (2048, 8192),
    (14336, 4096),
    (4096, 14336),
    (128256, 2048),
]


def main() -> None:
    """Right first, then fast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--right-only", action="store_true", help="time nothing")
    options = parser.parse_args()
    check(cuda.cudaFree(0))
    torch.manual_seed(0)
    fact = Fact("product kernel")
    for precision in TYPES:
        verify_all(fact, precision)
    if not options.right_only:
        time_all(fact)
    fact.end()


def verify_all(fact: Fact, precision: str) -> None:
    """Every shape, with and without bias; experts; norms; and rows alone as in a batch."""
    errors = [
        verify(fact, Matrix(*shape, bfloat16=precision == "bf16", biased=biased), rows, precision)
        for shape in SHAPES
        for rows in ROWS
        for biased in (False, True)
    ]
    for experts in (3, 40):
        matrix = Matrix(160, 64, bfloat16=precision == "bf16", count=experts)
        errors += [
            verify(fact, matrix, rows, precision, shared=shared)
            for rows in ROWS
            for shared in (False, True)
        ]
    told = f"{precision}: {len(errors)} products against float64, largest error {max(errors):.1e}"
    fact.check(told, max(errors) < BOUNDS[precision])
    errors = [
        verify_norm(width, rows, precision)
        for width in (64, 128, 1024, 2048, 5120)
        for rows in (1, 7, 300)
    ]
    told = f"{precision}: {len(errors)} norms against float64, largest error {max(errors):.1e}"
    fact.check(told, max(errors) < BOUNDS[precision])
    fact.check(f"{precision}: a row alone and in a batch: bit for bit", is_steady(precision))
    fact.check(f"{precision}: many rows again: bit for bit", is_repeatable(precision))


@cache
def kernel(matrix: Matrix) -> Kernel:
    """As a plan holds it."""
    code = compiled(launch.__package__, launch.SOURCE, matrix.defines(CAPABILITY), CAPABILITY)
    return Kernel(code, launch.ENTRY)


def run(
    matrix: Matrix, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, y: torch.Tensor
) -> None:
    """Enqueue it on PyTorch's stream."""
    rows = x.shape[-2]
    sizes = (rows, matrix.outputs, matrix.inputs, matrix.count, int(x.dim() == 2))
    inputs = [t.data_ptr() for t in (x, w, bias) if t is not None]
    kernel(matrix).launch(
        (matrix.grid(rows, CAPABILITY), 1, 1),
        launch.THREADS,
        torch.cuda.current_stream().cuda_stream,
        *inputs,
        *map(ctypes.c_int, sizes),
        y.data_ptr(),
    )


def noise(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(shape, device="cuda", dtype=torch.float32).to(dtype)


def verify(fact: Fact, matrix: Matrix, rows: int, precision: str, *, shared: bool = True) -> float:
    """The error against float64 over the rounded tensors; the output is poisoned before."""
    dtype, experts = TYPES[precision], (matrix.count,) if matrix.count > 1 else ()
    x = noise(dtype, *(() if shared else experts), rows, matrix.inputs)
    w = noise(dtype, *experts, matrix.outputs, matrix.inputs)
    bias = noise(dtype, matrix.outputs) if matrix.biased else None
    y = torch.full((*experts, rows, matrix.outputs), torch.nan, device="cuda", dtype=dtype)
    run(matrix, x, w, bias, y)
    wanted = x.double() @ w.double().mT
    if bias is not None:
        wanted += bias.double()
    error = float((y.double() - wanted).norm() / wanted.norm())
    if not error < BOUNDS[precision]:
        fact.check(f"{matrix} rows {rows} shared {shared}: error {error:.1e}", holds=False)
    return error


def verify_norm(width: int, rows: int, precision: str) -> float:
    """Likewise."""
    dtype = TYPES[precision]
    told = norms.Rows(width, precision == "bf16")
    code = compiled(norms.__package__, norms.SOURCE, told.defines(), CAPABILITY)
    x, scale = noise(dtype, rows, width), noise(dtype, width)
    epsilon = torch.tensor([1e-5], device="cuda")
    y = torch.full_like(x, torch.nan)
    stream = torch.cuda.current_stream().cuda_stream
    sizes = [scale.data_ptr(), epsilon.data_ptr(), ctypes.c_int(rows), y.data_ptr()]
    grid = (told.grid(rows), 1, 1)
    Kernel(code, norms.ENTRY).launch(grid, norms.THREADS, stream, x.data_ptr(), *sizes)
    wide = x.double()
    wanted = wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * scale.double()
    return float((y.double() - wanted).norm() / wanted.norm())


def is_steady(precision: str) -> bool:
    """Whether the first row of a batch does not depend on the others."""
    dtype = TYPES[precision]
    matrix = Matrix(2048, 2048, bfloat16=precision == "bf16")
    x, w = noise(dtype, FEW, 2048), noise(dtype, 2048, 2048)
    alone, found = torch.empty(1, 2048, device="cuda", dtype=dtype), []
    run(matrix, x[:1], w, None, alone)
    for rows in (5, 16, 32, 77, FEW):
        y = torch.empty(rows, 2048, device="cuda", dtype=dtype)
        run(matrix, x[:rows], w, None, y)
        found.append(bool((y[:1] == alone).all()))
    return all(found)


def is_repeatable(precision: str) -> bool:
    """Whether a product of many rows gives the same twice, shared tiles and such as are not."""
    dtype = TYPES[precision]
    matrix = Matrix(2048, 2048, bfloat16=precision == "bf16")
    x, w = noise(dtype, 2048, 2048), noise(dtype, 2048, 2048)
    same = []
    for rows in (129, 300, 1024, 2048):
        first, again = (torch.empty(rows, 2048, device="cuda", dtype=dtype) for _ in range(2))
        run(matrix, x[:rows], w, None, first)
        run(matrix, x[:rows], w, None, again)
        same.append(bool((first == again).all()))
    return all(same)


def time_all(fact: Fact) -> None:
    """Decoding, what lies between, and prefill."""
    bandwidth = copied()
    fact.say("copy on the GPU, read and written", f"{bandwidth / 1e12:.2f} TB/s")
    for shape in TIMED:
        for rows in (1, 8, 32):
            told = timed(Matrix(*shape, bfloat16=False), rows)
            size = 2 * shape[0] * shape[1]
            floor = size / bandwidth * 1e6
            fact.say(
                f"{shape[0]:6} x {shape[1]:5}, {rows:4} rows",
                f"{told[0]:7.1f} us, floor {floor:6.1f} us = {floor / told[0]:.0%}, PyTorch "
                f"{told[1]:7.1f} us = {told[1] / told[0]:.2f}x",
            )
    for shape in TIMED[1:6]:
        for rows in (64, 128, 129, 256, 512, 2048, 8192):
            told = timed(Matrix(*shape, bfloat16=False), rows)
            rates = [2e-6 * rows * shape[0] * shape[1] / each for each in told]
            fact.say(
                f"{shape[0]:6} x {shape[1]:5}, {rows:4} rows",
                f"{told[0]:7.1f} us, {rates[0]:.0f} TFLOP/s, PyTorch {told[1]:7.1f} us, "
                f"{rates[1]:.0f} TFLOP/s = {told[1] / told[0]:.2f}x",
            )
    experts = replace(Matrix(14336, 4096, bfloat16=False), count=8)
    for rows in (1, 8, 512):
        told = timed(experts, rows)
        fact.say(
            f"8 experts of 14336 x 4096, {rows} rows", f"{told[0]:.1f} us, PyTorch {told[1]:.1f} us"
        )


def timed(matrix: Matrix, rows: int) -> tuple[float, float]:
    """Microseconds a call in a CUDA graph: this kernel's, and PyTorch's."""
    experts = (matrix.count,) if matrix.count > 1 else ()
    size = 2 * matrix.count * matrix.outputs * matrix.inputs
    copies = max(1, min(TURNS, WORKING_SET // size))
    weights = [noise(torch.float16, *experts, matrix.outputs, matrix.inputs) for _ in range(copies)]
    x = noise(torch.float16, rows, matrix.inputs)
    y = torch.empty(*experts, rows, matrix.outputs, device="cuda", dtype=torch.float16)

    def own(turn: int) -> None:
        run(matrix, x, weights[turn % copies], None, y)

    def other(turn: int) -> None:
        torch.matmul(x, weights[turn % copies].mT, out=y)

    return microseconds(own), microseconds(other)


def microseconds(call: Callable[[int], None]) -> float:
    """The median over replays of a graph of some calls, of one of them."""
    for turn in range(TURNS):
        call(turn)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for turn in range(TURNS):
            call(turn)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(REPEATS):
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times) / TURNS * 1e3


if __name__ == "__main__":
    main()
