"""CUDA C++ to PTX, by NVRTC: on any machine, for any GPU, without a toolkit."""

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from pitcrew_builder.errors import CompilationFailed, InvalidSpec
from pitcrew_builder.targets.trt.library import Native

COMMON = "halves.cuh"
"""Stands before the source of every kernel of ours."""

FIRST_WITH_CLUSTERS = 90
"""The generation of GPUs whose blocks can join their results."""

WITH_WARPGROUPS = 90
"""The one generation whose tensor cores multiply for four warps at once (`wgmma`)."""


def compiled(package: str, name: str, defines: Mapping[str, object], capability: int) -> bytes:
    """A kernel of `package` for GPUs of a generation such as 90. Raises as `ptx`.

    It may include the package's own `.cuh` files. Later generations run it too, but for one that
    asks for WGMMA: those products are of one generation alone. Layers that want the same get the same text, which a driver compiles once.
    """
    return _compiled(package, name, tuple(sorted(defines.items())), capability)


@cache
def _compiled(
    package: str, name: str, defines: tuple[tuple[str, object], ...], capability: int
) -> bytes:
    common = files(__package__).joinpath(COMMON).read_bytes()
    own = files(package).joinpath(name).read_bytes()
    source = common + f'#line 1 "{name}"\n'.encode() + own
    included = {
        file.name: file.read_bytes()
        for file in files(package).iterdir()
        if file.name.endswith(".cuh")
    }
    told = dict(defines)
    alone = "a" if told.get("WGMMA") else ""
    return ptx(source, name, told, [f"--gpu-architecture=compute_{capability}{alone}"], included)


def ptx(
    source: bytes,
    name: str,
    defines: Mapping[str, object],
    options: Sequence[str] = (),
    included: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """PTX of a source, which may include files by name.

    Raises `InvalidSpec` where NVRTC is missing and `CompilationFailed` with its log where it
    refuses the source.
    """
    nvrtc = _nvrtc()
    names = [each.encode() for each in included]
    created = nvrtc.nvrtcCreateProgram(
        source, name.encode(), len(names), list(included.values()), names
    )
    program = _checked(nvrtc, created)
    words = [*options, "-std=c++17", *(f"-D{key}={value}" for key, value in defines.items())]
    encoded = [word.encode() for word in words]
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompilationFailed(f"{name} does not compile: {_log(nvrtc, program)}")
        code: bytes = b" " * _checked(nvrtc, nvrtc.nvrtcGetPTXSize(program))
        _checked(nvrtc, nvrtc.nvrtcGetPTX(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


def _nvrtc() -> Native:
    try:
        return importlib.import_module("cuda.bindings.nvrtc")
    except ImportError as error:
        raise InvalidSpec(
            f"tensorrt: kernels of Pitcrew's own are compiled by NVRTC of cuda-python, which cannot be "
            f"loaded ({error}); install pitcrew[tensorrt] in the builder image, or set "
            f"tensorrt.attention and tensorrt.products to operators"
        ) from error


def _checked(nvrtc: Native, result: tuple[Native, ...]) -> Native:
    error, *values = result
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompilationFailed(f"NVRTC: {error.name}")
    return values[0] if values else None


def _log(nvrtc: Native, program: Native) -> str:
    log: bytes = b" " * _checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
    _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
    return log.rstrip(b"\0 ").decode(errors="replace").strip()
