"""Exchanges between GPUs by NCCL's own interface of C, in the order of a stream; graphs can hold them.

Six functions of a library whose interface is stable, so nothing is needed beside `nvidia-nccl-cu13`: its Python
package asks for a compiler of kernels. The library is found as cuda-python finds those of CUDA.
"""

import ctypes
import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pitcrew_builder.manifest import Exchange
from pitcrew_runtime.execution.collective import Collective, Group
from pitcrew_runtime.execution.gpu.device import Gpu, GpuFailed, GpuUnavailable, Native
from pitcrew_runtime.execution.gpu.passing import BYTES

IDENTITY_BYTES = 128
"""Of what the members of a communicator have to know of it, `ncclUniqueId`."""

_TYPES = {"float32": 7, "float16": 6, "bfloat16": 9}
_SUM = 0
_MEET = "AllReduce"


class _Identity(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_char * IDENTITY_BYTES),)


_Address, _Count = ctypes.c_void_p, ctypes.c_size_t

_SIGNATURES: Mapping[str, Sequence[Native]] = {
    "ncclGetUniqueId": (ctypes.POINTER(_Identity),),
    "ncclCommInitRank": (ctypes.POINTER(_Address), ctypes.c_int, _Identity, ctypes.c_int),
    "ncclAllReduce": (
        _Address, _Address, _Count, ctypes.c_int, ctypes.c_int, _Address, _Address,
    ),
    "ncclAllGather": (_Address, _Address, _Count, ctypes.c_int, _Address, _Address),
    "ncclCommDestroy": (_Address,),
}  # fmt: skip


class Nccl:
    """Of one rank: a communicator for each group that it belongs to."""

    def __init__(
        self,
        library: Native,
        gpu: Gpu,
        rank: int,
        groups: Sequence[Group],
        collective: Collective,
        scratch: int,
    ) -> None:
        """`library` is `load_nccl`'s, `groups` are in the same order on every rank, and `collective` is what they find each other by.

        `scratch` bytes have room for the largest gather. Returns once all members of all groups are
        there. Raises `GpuFailed` where it fails.
        """
        self._gpu = gpu
        self._library = library
        self._scratch = gpu.zeros(scratch, "memory for gathered parts")
        self._members: dict[Group, ctypes.c_void_p] = {}
        for group in groups:
            if rank in group:
                self._members[group] = self._join(group, rank, collective)

    def sum(self, group: Group, given: int, result: int, count: int, kind: str) -> None:
        """The sum of all members' `count` elements at `given` to `result`."""
        self._do(
            self._library.ncclAllReduce,
            given, result, count, _TYPES[kind], _SUM, self._members[group], self._gpu.stream,
        )  # fmt: skip

    def gather(
        self, group: Group, given: int, result: int, size: tuple[int, int], kind: str
    ) -> None:
        """All members' [rows, width] at `given`, side by side, to `result`; the size is of one of them."""
        rows, width = size
        together = result if rows == 1 else self._scratch
        self._do(
            self._library.ncclAllGather,
            given, together, rows * width, _TYPES[kind], self._members[group], self._gpu.stream,
        )  # fmt: skip
        if rows > 1:
            line = width * BYTES[kind]
            for index in range(len(group)):
                self._gpu.copy_lines(
                    (result + index * line, len(group) * line),
                    (together + index * rows * line, line),
                    (rows, line),
                )

    def close(self) -> None:
        """Leave the groups, after all graphs are dropped that hold exchanges."""
        for member in self._members.values():
            self._library.ncclCommDestroy(member)
        self._members.clear()

    def _join(self, group: Group, rank: int, collective: Collective) -> ctypes.c_void_p:
        """The first member of a group names it; the ranks' own exchange tells the others."""
        identity = _Identity()
        if rank == group[0]:
            self._do(self._library.ncclGetUniqueId, ctypes.byref(identity))
        # Numbers are all that ranks exchange, and sums all that they make of them.
        named = np.frombuffer(bytes(identity), np.uint8).astype(np.float32)
        what = Exchange(operator=_MEET, value="identity", result="identity", group=group)
        told = collective.exchange(what, named).astype(np.uint8).tobytes()
        member = ctypes.c_void_p()
        known = _Identity.from_buffer_copy(told)
        self._do(
            self._library.ncclCommInitRank,
            ctypes.byref(member), len(group), known, group.index(rank),
        )  # fmt: skip
        return member

    def _do(self, function: Callable[..., int], *arguments: object) -> None:
        error = function(*arguments)
        if error:
            name = self._library.ncclGetErrorString(error).decode()
            raise GpuFailed(f"NCCL: {name}; NCCL_DEBUG=WARN in the environment makes it say more")


def load_nccl() -> Native:
    """The library. Raises `GpuUnavailable`."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("nccl").abs_path)
    except (ImportError, RuntimeError, OSError) as error:
        raise GpuUnavailable(f"NCCL, by which ranks exchange values: {error}") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    library.ncclGetErrorString.restype = ctypes.c_char_p
    return library
