"""CUDA C++ to PTX, by NVRTC of cuda-python: on any machine, for any GPU, without a toolkit.

Builder and runtime both compile kernels of their own by it. A leaf: what they say of its errors is
theirs.
"""

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

Native: TypeAlias = Any
"""The module, which has no types."""


class NvrtcMissing(Exception):
    """It cannot be loaded; the message says why."""


class NvrtcRefused(Exception):
    """It does not compile the source; the message is its log, or the error's name."""


def ptx(
    source: bytes,
    name: str,
    options: Sequence[str] = (),
    included: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """PTX of a source in C++17, which may include files by name. Raises `NvrtcMissing` and
    `NvrtcRefused`.
    """
    nvrtc = _nvrtc()
    names = [each.encode() for each in included]
    created = nvrtc.nvrtcCreateProgram(
        source, name.encode(), len(names), list(included.values()), names
    )
    program = _checked(nvrtc, created)
    encoded = [word.encode() for word in (*options, "-std=c++17")]
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise NvrtcRefused(_log(nvrtc, program))
        code: bytes = b" " * _checked(nvrtc, nvrtc.nvrtcGetPTXSize(program))
        _checked(nvrtc, nvrtc.nvrtcGetPTX(program, code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return code


def _nvrtc() -> Native:
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        # The library itself is looked for at the first call.
        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        raise NvrtcMissing(str(error)) from error
    return nvrtc


def _checked(nvrtc: Native, result: tuple[Native, ...]) -> Native:
    error, *values = result
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise NvrtcRefused(error.name)
    return values[0] if values else None


def _log(nvrtc: Native, program: Native) -> str:
    log: bytes = b" " * _checked(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
    _checked(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
    return log.rstrip(b"\0 ").decode(errors="replace").strip()
