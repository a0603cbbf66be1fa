"""Kernels of ours as PTX for plugins."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from pitcrew_builder import nvrtc
from pitcrew_builder.errors import CompilationFailed, InvalidSpec

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
    words = [*options, *(f"-D{key}={value}" for key, value in defines.items())]
    try:
        return nvrtc.ptx(source, name, words, included)
    except nvrtc.NvrtcMissing as error:
        raise InvalidSpec(
            f"tensorrt: kernels of Pitcrew's own are compiled by NVRTC of cuda-python, which cannot be "
            f"loaded ({error}); install pitcrew[tensorrt] in the builder image, or set "
            f"tensorrt.attention and tensorrt.products to operators"
        ) from error
    except nvrtc.NvrtcRefused as error:
        raise CompilationFailed(f"{name} does not compile: {error}") from error
