"""CUDA C++ to PTX, and kernels launched without TensorRT."""

import ctypes
import os

from cuda.bindings import driver, nvrtc

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
