"""The plans of one rank, run one after the other, with exchanges between them on the same stream.

To a network it is one plan: all of it is in the CUDA graph of a run.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pitcrew_builder.manifest import Exchange, PassedValue, SegmentFile
from pitcrew_runtime.execution.collective import Group
from pitcrew_runtime.execution.gpu.device import Gpu
from pitcrew_runtime.execution.gpu.passing import (
    dims_of,
    lay_out,
    lives,
    most_bytes,
    sizes_of,
)
from pitcrew_runtime.execution.gpu.plan import DECODE, PREFILL, Program, SinglePlan
from pitcrew_runtime.execution.gpu.shapes import ALIGNMENT, Bounds, Capacity, Shape


class Exchanger(Protocol):
    """The GPUs of other ranks, by addresses of this one. What it does is done in the stream's order."""

    def sum(self, group: Group, given: int, result: int, count: int, kind: str) -> None:
        """The sum of all members' `count` elements at `given` to `result`."""
        ...

    def gather(
        self, group: Group, given: int, result: int, size: tuple[int, int], kind: str
    ) -> None:
        """All members' [rows, width] at `given`, side by side, to `result`; the size is of one of them."""
        ...

    def close(self) -> None:
        """Leave the groups."""
        ...


class SplitPlan(Program):
    """As `manifest.GraphInterface.segments` says."""

    def __init__(
        self,
        gpu: Gpu,
        plans: Sequence[SinglePlan],
        segments: Sequence[SegmentFile],
        passed: Sequence[PassedValue],
        exchanger: Exchanger,
    ) -> None:
        self._gpu, self._plans, self._exchanger = gpu, plans, exchanger
        self._segments = segments
        self._passed = {value.name: value for value in passed}
        self._addresses: dict[str, int] = {}
        self._sizes: dict[int, dict[str, int]] = {}
        self._page_size = 0

    @property
    def inputs(self) -> set[str]:
        """Those that no plan or exchange makes."""
        return {name for plan in self._plans for name in plan.inputs} - self._passed.keys()

    def make_room(self, capacity: Capacity, bounds: Bounds, page_size: int) -> None:
        """Memory for what is passed on, in runs within these. Raises `NotEnoughMemory`."""
        self._page_size = page_size
        own = frozenset(self._passed)
        living = lives(
            self._segments,
            [own & plan.inputs for plan in self._plans],
            [own & plan.outputs for plan in self._plans],
        )
        most = {
            value.name: most_bytes(value, capacity, bounds, page_size)
            for value in self._passed.values()
        }
        layout = lay_out(living, most)
        base = self._gpu.zeros(layout.nbytes + ALIGNMENT, "memory for values between plans")
        self._addresses = {name: base + offset for name, offset in layout.offsets.items()}
        for profile in (PREFILL, DECODE):
            self._place(profile, self._addresses, {})

    def place(
        self,
        profile: int,
        addresses: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        """See `Program`."""
        if "input_ids" in shapes:
            shape = Shape.of(shapes)
            sizes = self._sizes[profile] = sizes_of(shape, self._page_size)
            passed = {name: dims_of(value, sizes) for name, value in self._passed.items()}
            shapes = {**shapes, **passed}
        self._place(profile, addresses, shapes)

    def enqueue(self, profile: int) -> None:
        """See `Program`."""
        sizes = self._sizes[profile]
        for plan, segment in zip(self._plans, self._segments, strict=True):
            plan.enqueue(profile)
            for exchange in segment.exchanges:
                self._exchange(exchange, sizes)

    def close(self) -> None:
        """See `Program`."""
        self._exchanger.close()
        for plan in self._plans:
            plan.close()

    def _place(
        self,
        profile: int,
        addresses: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        for plan in self._plans:
            plan.place(
                profile,
                {name: at for name, at in addresses.items() if name in plan.inputs | plan.outputs},
                {name: dims for name, dims in shapes.items() if name in plan.inputs},
            )

    def _exchange(self, what: Exchange, sizes: Mapping[str, int]) -> None:
        given, result = self._addresses[what.value], self._addresses[what.result]
        value = self._passed[what.value]
        dims = dims_of(value, sizes)
        rows, width = 1, dims[-1]
        for dim in dims[:-1]:
            rows *= dim
        if what.operator == "AllGather":
            self._exchanger.gather(what.group, given, result, (rows, width), value.type)
        else:
            self._exchanger.sum(what.group, given, result, rows * width, value.type)
