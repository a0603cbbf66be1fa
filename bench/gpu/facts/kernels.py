"""CUDA C++ to PTX, and kernels launched without TensorRT."""

import ctypes
import os

from cuda.bindings import driver

from pitcrew_builder.targets.trt import nvrtc

ARCHITECTURE = os.environ.get("FACTS_ARCH", "compute_90")
HEADERS = os.environ.get("CUDA_HEADERS", "/usr/local/cuda/include")


def ptx(source: str, name: str, **defines: object) -> bytes:
    """Compile CUDA C++ that includes headers of the toolkit. Raises `CompilationFailed`."""
    # Headers of newer toolkits lie in a folder of their own.
    include = [f"--include-path={HEADERS}", f"--include-path={HEADERS}/cccl"]
    return nvrtc.ptx(
        source.encode(), name, defines, [f"--gpu-architecture={ARCHITECTURE}", *include]
    )


class Kernel:
    """One function of a module of PTX."""

    def __init__(self, code: bytes, name: str) -> None:
        self._module = driven(driver.cuModuleLoadData(code))
        self._function = driven(driver.cuModuleGetFunction(self._module, name.encode()))

    def launch(
        self, grid: tuple[int, int, int], block: int, stream: int, *values: int | ctypes.c_int
    ) -> None:
        """Addresses stand as plain integers, 32-bit sizes as `ctypes.c_int`."""
        held = tuple(v.value if isinstance(v, ctypes.c_int) else v for v in values)
        kinds = tuple(
            ctypes.c_int if isinstance(v, ctypes.c_int) else ctypes.c_void_p for v in values
        )
        driven(
            driver.cuLaunchKernel(self._function, *grid, block, 1, 1, 0, stream, (held, kinds), 0)
        )


def driven(result: tuple[object, ...]) -> object:
    """The value of a call of the driver. Raises `RuntimeError` with the error's name."""
    error, *values = result
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA: {error.name}")
    return values[0] if values else None
