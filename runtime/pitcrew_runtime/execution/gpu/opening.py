"""Opens an engine's plans on a GPU of this process, before it is known how many pages there will be."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.manifest import GraphInterface, Manifest
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.errors import EngineIncompatible
from pitcrew_runtime.execution.gpu.device import Gpu, GpuFailed, GpuUnavailable, gpu_count
from pitcrew_runtime.execution.gpu.kernels import CHUNK, Kernels
from pitcrew_runtime.execution.gpu.network import PlanNetwork, Scratch
from pitcrew_runtime.execution.gpu.passing import most_bytes
from pitcrew_runtime.execution.gpu.plan import Library, Plan, Program
from pitcrew_runtime.execution.gpu.shapes import Bounds, Capacity, bounds_of, usual_shapes
from pitcrew_runtime.execution.gpu.split_plan import Exchanger, SplitPlan
from pitcrew_runtime.execution.kv_pool import PoolShape

logger = logging.getLogger(__name__)

Meet = Callable[[Gpu, int], Exchanger]
"""Finds the GPUs of other ranks; it is given so many bytes to gather in."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Weights on a GPU, and beside them all that runs need but pages."""

    gpu: Gpu
    kernels: Kernels
    plan: Program
    scratch: Scratch
    bounds: Bounds
    limits: Limits

    @property
    def free_memory(self) -> int:
        """Bytes of the GPU that are left."""
        return self.gpu.free_memory

    def network(self, pool: PoolShape) -> PlanNetwork:
        """Over pools of that shape, warm. Raises `NotEnoughMemory`, `EngineIncompatible`."""
        network = PlanNetwork(self.gpu, self.kernels, self.plan, self.scratch, self.bounds, pool)
        shapes, started = usual_shapes(self.limits, self.bounds), time.monotonic()
        network.warm(shapes)
        logger.info("%d graphs in %.1f s", len(shapes), time.monotonic() - started)
        return network


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a rank sits: each has a GPU of the pod to itself."""

    index: int
    """Of the GPU."""
    ranks_here: int
    meet: Meet


def open_plan(path: Path, manifest: Manifest, limits: Limits, pool: PoolShape) -> Opened:
    """The plan of an engine that is not split, for runs within `limits`, over pools of that shape but
    for the pages.

    Raises `EngineIncompatible` with the remedy, and `NotEnoughMemory`.
    """

    def whole(gpu: Gpu, plans: Sequence[Plan], capacity: Capacity, bounds: Bounds) -> Program:
        (plan,) = plans
        return plan

    return _opened([path], (0, 1), manifest, limits, pool, whole)


def open_rank(
    root: Path, rank: int, manifest: Manifest, limits: Limits, pool: PoolShape, seat: Seat
) -> Opened:
    """The plans of a rank of the engine under `root`, likewise. Returns once all ranks are there."""
    interface = manifest.ranks[rank]

    def split(gpu: Gpu, plans: Sequence[Plan], capacity: Capacity, bounds: Bounds) -> Program:
        passed = interface.plan.passed if interface.plan else ()
        gathered = _largest_gather(interface, capacity, bounds, pool.page_size)
        exchanger = seat.meet(gpu, gathered)
        plan = SplitPlan(gpu, plans, interface.segments, passed, exchanger)
        plan.make_room(capacity, bounds, pool.page_size)
        return plan

    paths = [root / segment.graph for segment in interface.segments]
    return _opened(paths, (seat.index, seat.ranks_here), manifest, limits, pool, split)


def _opened(
    paths: Sequence[Path],
    seat: tuple[int, int],
    manifest: Manifest,
    limits: Limits,
    pool: PoolShape,
    joined: Callable[[Gpu, Sequence[Plan], Capacity, Bounds], Program],
) -> Opened:
    index, ranks_here = seat
    bounds = bounds_of(manifest)
    assert bounds is not None, "a manifest of a plan tells its profiles"
    _check(manifest, pool)
    capacity = Capacity.of(limits, bounds)
    try:
        check_seats(manifest.tag, ranks_here, gpu_count())
        gpu = Gpu(index)
        plans = Library(manifest, gpu).open(paths)
        plan = joined(gpu, plans, capacity, bounds)
        scratch = Scratch(gpu, capacity, pool, manifest.model.vocab_size)
        return Opened(gpu, Kernels(gpu), plan, scratch, bounds, limits)
    except (GpuUnavailable, GpuFailed) as error:
        raise EngineIncompatible(
            f"engine {manifest.tag} is a plan for a GPU, and none can be used here ({error}): give the "
            "pod a GPU (resources.limits nvidia.com/gpu) and an image with pitcrew[tensorrt], or build "
            "for target onnxruntime-cpu"
        ) from error


def _check(manifest: Manifest, pool: PoolShape) -> None:
    if manifest.identity.lora is not None:
        raise EngineIncompatible(
            f"engine {manifest.tag} takes adapters, which this runtime serves on CPUs alone: merge "
            "them when it is built (spec.adapters), or build for target onnxruntime-cpu"
        )
    if pool.token_bytes % CHUNK:
        raise EngineIncompatible(
            f"engine {manifest.tag}: a token takes {pool.token_bytes} bytes of a layer's pool, and on a "
            f"GPU they have to be a multiple of {CHUNK}: build for target onnxruntime-cpu"
        )


def check_seats(tag: str, ranks_here: int, count: int) -> None:
    """Raise `EngineIncompatible` where a pod has fewer GPUs than ranks."""
    if count < ranks_here:
        raise EngineIncompatible(
            f"engine {tag} runs {ranks_here} ranks in this pod with a GPU each, and the pod has {count}: "
            f"set resources.limits nvidia.com/gpu to {ranks_here}, deal the ranks out over more pods "
            f"(ranksPerPod {max(1, count)}), or build for a smaller world size"
        )


def _largest_gather(
    interface: GraphInterface, capacity: Capacity, bounds: Bounds, page_size: int
) -> int:
    passed = {value.name: value for value in interface.plan.passed} if interface.plan else {}
    gathered = [
        most_bytes(passed[exchange.result], capacity, bounds, page_size)
        for segment in interface.segments
        for exchange in segment.exchanges
        if exchange.operator == "AllGather"
    ]
    return max(gathered, default=0)
