"""What an ahead-of-time Python plugin can do, and whether its plan runs without Python's classes.

`--build FILE` registers and builds; `--run FILE` is a process that registers nothing. Two plugins:
one doubles a tensor; one writes a tensor to an address that it is given in an INT64 input, which is
how a KV pool could be written in place without aliasing rules. `--alias` tries aliased tensors.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import build, trt
from saying import Fact
from session import Buffer, Session

TWICE = """#include <cuda_fp16.h>
extern "C" __global__ void twice(const half* x, int n, half* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = __hadd(x[i], x[i]);
}"""
STORE = """#include <cuda_fp16.h>
extern "C" __global__ void store(const half* x, const long long* address, int n, half* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) { y[i] = x[i]; reinterpret_cast<half*>(address[0])[i] = x[i]; }
}"""
ADD = """#include <cuda_fp16.h>
extern "C" __global__ void add(const half* pool, const half* x, int n, half* same) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) same[i] = __hadd(pool[i], x[i]);
}"""
SIZE = 64


def main() -> None:
    """Build in this process, run in another; or be that other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--alias", action="store_true")
    options = parser.parse_args()
    if options.run:
        run(options.run)
    elif options.alias:
        alias()
    else:
        with tempfile.TemporaryDirectory() as work:
            file = Path(work, "plan")
            register()
            file.write_bytes(build(draw, profile()))
            sys.exit(
                subprocess.run([sys.executable, __file__, "--run", file], check=False).returncode
            )


def profile() -> dict[str, tuple[tuple[int, ...], ...]]:
    """Rows are dynamic."""
    return {"x": ((1, SIZE), (8, SIZE), (32, SIZE))}


def launch(trtp: object, x: object) -> tuple[object, object]:
    """One thread an element."""
    params = trtp.KernelLaunchParams()
    params.grid_x = trtp.cdiv(x.shape_expr.numel(), 128)
    params.block_x = 128
    extra = trtp.SymIntExprs(1)
    extra[0] = trtp.SymInt32(x.shape_expr.numel())
    return params, extra


def register() -> None:
    """Both plugins."""
    import tensorrt.plugin as trtp
    from kernels import ptx

    @trtp.register("facts::Twice")
    def twice(x: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    @trtp.aot_impl("facts::Twice")
    def twice_aot(
        x: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc], tactic: int
    ) -> tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        return "twice", ptx(TWICE, "twice.cu"), *launch(trtp, x)

    @trtp.register("facts::Store")
    def store(x: trtp.TensorDesc, address: trtp.TensorDesc) -> trtp.TensorDesc:
        return x.like()

    @trtp.aot_impl("facts::Store")
    def store_aot(
        x: trtp.TensorDesc,
        address: trtp.TensorDesc,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        return "store", ptx(STORE, "store.cu"), *launch(trtp, x)


def draw(network: object) -> None:
    """y = store(twice(x), address)."""
    import tensorrt.plugin as trtp

    x = network.add_input("x", trt.float16, (-1, SIZE))
    address = network.add_input("address", trt.int64, (1,))
    doubled = network.add_plugin(trtp.op.facts.Twice(x), aot=True).get_output(0)
    stored = network.add_plugin(trtp.op.facts.Store(doubled, address), aot=True).get_output(0)
    stored.name = "y"
    network.mark_output(stored)


def run(file: Path) -> None:
    """Open the plan where nothing is registered."""
    fact = Fact("ahead-of-time plugin in a process without its classes")
    plan = file.read_bytes()
    fact.say("plan bytes", len(plan))
    session = Session(trt, plan)
    x = np.random.default_rng(0).standard_normal((8, SIZE), dtype=np.float32)
    pool = Buffer.of(np.zeros((8, SIZE), np.float16))
    (y,) = session.run(["y"], {"x": x, "address": np.array([pool.address])})
    wanted = 2 * x.astype(np.float16).astype(np.float32)
    fact.check("its output is right", bool(np.allclose(y, wanted)))
    written = pool.read((8, SIZE), np.float16).astype(np.float32)
    fact.check(
        "it wrote through the address in an INT64 tensor", bool(np.allclose(written, wanted))
    )
    fact.check("no Python plugin is loaded", "tensorrt.plugin" not in sys.modules)
    fact.end()


def alias() -> None:
    """An output that is its input's memory."""
    import tensorrt.plugin as trtp
    from kernels import ptx

    fact = Fact("aliased input and output of an ahead-of-time plugin")

    @trtp.register("facts::Add")
    def add(pool: trtp.TensorDesc, x: trtp.TensorDesc) -> trtp.TensorDesc:
        return pool.aliased()

    @trtp.aot_impl("facts::Add")
    def add_aot(
        pool: trtp.TensorDesc, x: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc], tactic: int
    ) -> tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        return "add", ptx(ADD, "add.cu"), *launch(trtp, x)

    def network_of(network: object) -> None:
        pool = network.add_input("pool", trt.float16, (-1, SIZE))
        x = network.add_input("x", trt.float16, (-1, SIZE))
        layer = network.add_plugin(trtp.op.facts.Add(pool, x), aot=True)
        layer.get_output(0).name = "y"
        network.mark_output(layer.get_output(0))

    shapes = profile()["x"]
    preview = (trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03,)
    plan = build(network_of, {"x": shapes, "pool": shapes}, preview=preview)
    session = Session(trt, plan)
    ones = np.ones((8, SIZE), np.float16)
    pool = Buffer.of(ones)
    held = session.bind({"pool": pool, "x": ones}, pool=(8, SIZE))
    session.enqueue()
    session.wait()
    fact.say("the output, bound to other memory, reads", session.read("y", held["y"]).flat[0])
    fact.say("the pool reads", pool.read((8, SIZE), np.float16).flat[0])
    session.context.set_tensor_address("y", pool.address)
    session.enqueue()
    session.wait()
    value = pool.read((8, SIZE), np.float16).flat[0]
    fact.check(f"bound to one address, the pool is updated in place: {value}", value in (2.0, 3.0))
    fact.end()


if __name__ == "__main__":
    main()
