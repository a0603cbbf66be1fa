"""Opens an engine's plan on the GPU of this process, before it is known how many pages there will be."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.errors import EngineIncompatible
from pitcrew_runtime.execution.gpu.device import Gpu, GpuFailed, GpuUnavailable
from pitcrew_runtime.execution.gpu.kernels import CHUNK, Kernels
from pitcrew_runtime.execution.gpu.network import PlanNetwork, Scratch
from pitcrew_runtime.execution.gpu.plan import Plan
from pitcrew_runtime.execution.gpu.shapes import Bounds, Capacity, bounds_of, usual_shapes
from pitcrew_runtime.execution.kv_pool import PoolShape

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """Weights on a GPU, and beside them all that runs need but pages."""

    gpu: Gpu
    kernels: Kernels
    plan: Plan
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


def open_plan(path: Path, manifest: Manifest, limits: Limits, pool: PoolShape) -> Opened:
    """For runs within `limits`, over pools of that shape but for the pages.

    Raises `EngineIncompatible` with the remedy, and `NotEnoughMemory`.
    """
    bounds = bounds_of(manifest)
    assert bounds is not None, "a manifest of a plan tells its profiles"
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
    try:
        gpu = Gpu()
        plan = Plan(path, manifest, gpu)
        scratch = Scratch(gpu, Capacity.of(limits, bounds), pool, manifest.model.vocab_size)
        return Opened(gpu, Kernels(gpu), plan, scratch, bounds, limits)
    except (GpuUnavailable, GpuFailed) as error:
        raise EngineIncompatible(
            f"engine {manifest.tag} is a plan for a GPU, and none can be used here ({error}): give the "
            "pod a GPU (resources.limits nvidia.com/gpu) and an image with pitcrew[tensorrt], or build "
            "for target onnxruntime-cpu"
        ) from error
