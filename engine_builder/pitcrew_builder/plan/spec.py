"""The spec that a plan is about, where flags leave more open than a build may."""

from pathlib import Path
from typing import Any

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.plan.gpus import Gpu
from pitcrew_builder.progress import Tracker
from pitcrew_builder.sources.find import find
from pitcrew_builder.spec import BuildSpec, ComputeCapability, LocalSource, Precision, Target


def for_gpu(gpu: Gpu, precision: str | None) -> dict[str, Any]:
    """What a build for that product has in its spec; bf16 where the product computes in it."""
    half = Precision.FP16 if gpu.capability is ComputeCapability.SM75 else Precision.BF16
    return {
        "target": Target.TENSORRT,
        "precision": precision or half,
        "tensorrt": {"computeCapability": gpu.capability},
    }


def check_product(spec: BuildSpec, gpu: Gpu | None) -> None:
    """Refuse a plan that is compiled for other GPUs than those it is planned on."""
    if gpu is None or spec.tensorrt is None or spec.tensorrt.compute_capability is gpu.capability:
        return
    raise InvalidSpec(
        f"tensorrt.computeCapability is {spec.tensorrt.compute_capability}, and {gpu.product} is "
        f"{gpu.capability}, which does not run that plan; set it to {gpu.capability}, or name "
        f"another product"
    )


def checkpoint_of(spec: BuildSpec, cache: Path) -> Directory:
    """The checkpoint's small files; weights are neither downloaded nor hashed."""
    if isinstance(spec.source, LocalSource):
        return Directory.of(Path(spec.source.path))
    return find(spec.source, cache, Tracker(lambda progress: None)).directory
