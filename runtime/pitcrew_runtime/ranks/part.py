"""What one rank computes of every step: with ONNX Runtime on CPUs, or by plans on a GPU of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from pitcrew_builder.manifest import Manifest
from pitcrew_builder.spec import Target
from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from pitcrew_runtime.execution.collective import Collective
from pitcrew_runtime.execution.kv_pool import PoolShape
from pitcrew_runtime.execution.onnx_network import Neighbours, OnnxNetwork, Segment
from pitcrew_runtime.execution.packing import Packed
from pitcrew_runtime.execution.program import open_session
from pitcrew_runtime.execution.resources import free_memory
from pitcrew_runtime.execution.sampler import likeliest
from pitcrew_runtime.ranks.wiring import exchange_groups, next_stage, previous_stage

Array = NDArray[Any]


class Part(Protocol):
    """One rank's, over pools of its own; runs come with block tables."""

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """See `Network`."""
        ...

    def hold(self, adapters: Mapping[int, Adapter]) -> None:
        """See `Network`."""
        ...

    def compute(self, packed: Packed) -> None:
        """A run whose logits somebody else tells, or nobody has here."""
        ...

    def run(self, packed: Packed) -> Array:
        """A run, and its logits."""
        ...

    def likeliest(self, packed: Packed) -> Array:
        """A run, and its likeliest tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Ready:
    """A rank whose weights are in memory."""

    free: Callable[[], int]
    """Bytes of the memory where its pages will be that are left."""
    part: Callable[[int], Part]
    """Makes it with so many pages."""


@dataclass(frozen=True, slots=True)
class Place:
    """Of a rank among the others."""

    rank: int
    among: int
    """Its number among those of its pod."""
    ranks_here: int
    collective: Collective


def load_part(
    root: Path, manifest: Manifest, place: Place, limits: Limits, threads: int, adapter_slots: int
) -> Ready:
    """The rank's part of the engine under `root`. Raises a `StartupError`."""
    if manifest.identity.target is Target.TENSORRT:
        return _plans(root, manifest, place, limits)
    return _sessions(root, manifest, place, threads, adapter_slots)


def pool_shape(manifest: Manifest, rank: int, pages: int) -> PoolShape:
    """Of a rank's pools."""
    interface = manifest.ranks[rank]
    assert interface.placement is not None
    return PoolShape(
        layers=interface.placement.layers,
        pages=pages,
        page_size=manifest.identity.shapes.kv_page_size,
        kv_heads=interface.placement.kv_heads,
        head_dim=manifest.model.head_dim,
        kv_dtype=interface.kv_dtype,
        first_layer=interface.placement.first_layer,
    )


def _plans(root: Path, manifest: Manifest, place: Place, limits: Limits) -> Ready:
    """Nobody else loads what speaks to a GPU."""
    from pitcrew_runtime.execution.gpu.device import Gpu
    from pitcrew_runtime.execution.gpu.nccl import Nccl, load_nccl
    from pitcrew_runtime.execution.gpu.opening import Seat, open_rank

    groups = exchange_groups(manifest.ranks)

    def meet(gpu: Gpu, scratch: int) -> Nccl:
        return Nccl(load_nccl(), gpu, place.rank, groups, place.collective, scratch)

    seat = Seat(place.among, place.ranks_here, meet)
    pool = pool_shape(manifest, place.rank, 0)
    opened = open_rank(root, place.rank, manifest, limits, pool, seat)
    return Ready(
        lambda: opened.free_memory,
        lambda pages: opened.network(pool_shape(manifest, place.rank, pages)),
    )


def _sessions(
    root: Path, manifest: Manifest, place: Place, threads: int, adapter_slots: int
) -> Ready:
    rank, lora = manifest.ranks[place.rank], manifest.identity.lora
    segments = [
        Segment(open_session(root / part.graph, threads), part.exchanges) for part in rank.parts
    ]
    neighbours = Neighbours(
        place.collective,
        previous_stage(manifest.ranks, place.rank),
        next_stage(manifest.ranks, place.rank),
    )

    def part(pages: int) -> Part:
        adapters = AdapterPool(rank.lora, adapter_slots, lora.max_rank) if lora else None
        shape = pool_shape(manifest, place.rank, pages)
        return _Sessions(OnnxNetwork(segments, shape, adapters, neighbours))

    return Ready(free_memory, part)


class _Sessions:
    """A rank with ONNX Runtime."""

    def __init__(self, network: OnnxNetwork) -> None:
        self._network = network
        self.copy, self.hold = network.copy, network.hold

    def compute(self, packed: Packed) -> None:
        """See `Part`."""
        self._network.run_rank(packed)

    def run(self, packed: Packed) -> Array:
        """See `Part`."""
        logits = self._network.run_rank(packed)
        assert logits is not None, "a stage that is not the last tells nothing"
        return logits

    def likeliest(self, packed: Packed) -> Array:
        """See `Part`."""
        return likeliest(self.run(packed))
