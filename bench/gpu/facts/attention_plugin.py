"""`llm::PagedAttention` as an ahead-of-time plugin: PTX by NVRTC, no Python when the plan runs.

The sizes come from the tensors' shapes and the scale is one by the root of the head dimension,
because attributes do not pass the bindings of TensorRT 10.15 here: scalar ones are read by a
conversion that numpy 2.4 and later refuse, and arrays by a check that Python 3.11 and later do.
"""

import os
from pathlib import Path

import tensorrt.plugin as trtp
from common import trt
from cuda.bindings import nvrtc

WARPS = 8
ARCHITECTURE = os.environ.get("FACTS_ARCH", "compute_90")
HEADERS = os.environ.get("CUDA_HEADERS", "/usr/local/cuda/include")


def ptx(source: str, name: str, **defines: object) -> bytes:
    """Compile CUDA C++ to PTX. Raises `RuntimeError` with the compiler's log."""
    error, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], [])
    options = [f"--gpu-architecture={ARCHITECTURE}", f"--include-path={HEADERS}", "-std=c++17"]
    # Headers of newer toolkits lie in a folder of their own.
    options.append(f"--include-path={HEADERS}/cccl")
    options += [f"-D{key}={value}" for key, value in defines.items()]
    encoded = [option.encode() for option in options]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.decode(errors="replace"))
    _, size = nvrtc.nvrtcGetPTXSize(program)
    code = b" " * size
    nvrtc.nvrtcGetPTX(program, code)
    return code


def register() -> None:
    """Make the plugin known to the parser."""

    @trtp.register("pitcrew::PagedAttention")
    def describe(
        queries: trtp.TensorDesc,
        keys: trtp.TensorDesc,
        values: trtp.TensorDesc,
        key_pool: trtp.TensorDesc,
        value_pool: trtp.TensorDesc,
        block_tables: trtp.TensorDesc,
        mask: trtp.TensorDesc,
    ) -> trtp.TensorDesc:
        return queries.like()

    @trtp.aot_impl("pitcrew::PagedAttention")
    def implement(
        queries: trtp.TensorDesc,
        keys: trtp.TensorDesc,
        values: trtp.TensorDesc,
        key_pool: trtp.TensorDesc,
        value_pool: trtp.TensorDesc,
        block_tables: trtp.TensorDesc,
        mask: trtp.TensorDesc,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        page, kv_heads, head_dim = (key_pool.shape_expr[i].constant_value() for i in (1, 2, 3))
        heads = queries.shape_expr[2].constant_value() // head_dim
        code = ptx(
            Path(__file__).with_name("attention.cu").read_text(),
            "attention.cu",
            T="half" if queries.dtype == trt.float16 else "__nv_bfloat16",
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            PAGE=page,
            SCALE=f"{head_dim**-0.5!r}f",
        )
        launch = trtp.KernelLaunchParams()
        launch.grid_x = queries.shape_expr[0] * queries.shape_expr[1]
        launch.grid_y = heads
        launch.block_x = 32 * WARPS
        extra = trtp.SymIntExprs(2)
        extra[0] = trtp.SymInt32(queries.shape_expr[1])
        extra[1] = trtp.SymInt32(block_tables.shape_expr[1])
        return "paged_attention", code, launch, extra
