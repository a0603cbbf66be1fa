"""The spec that a plan is about, where flags leave more open than a build may."""

from pathlib import Path
from typing import Any

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.plan.gpus import Gpu
from pitcrew_builder.progress import Tracker
from pitcrew_builder.sources.find import find
from pitcrew_builder.spec import (
    BuildSpec,
    ComputeCapability,
    LocalSource,
    Precision,
    Quantization,
    Target,
    WeightFormat,
)


def for_gpu(gpu: Gpu, precision: str | None) -> dict[str, Any]:
    """What a build for that product has in its spec; bf16 where the product computes in it."""
    half = Precision.FP16 if gpu.capability is ComputeCapability.SM75 else Precision.BF16
    return {
        "target": Target.TENSORRT,
        "precision": precision or half,
        "tensorrt": {"computeCapability": gpu.capability},
    }


def with_weights(spec: BuildSpec, weights: str | None) -> BuildSpec:
    """The spec quantized, without the prompts that a build would ask for: sizes need none.

    Raises `InvalidSpec` for a format that is not known.
    """
    if weights is None:
        return spec
    if weights not in set(WeightFormat):
        raise InvalidSpec(f"weights '{weights}' is not known; choose {', '.join(WeightFormat)}")
    wanted = Quantization.model_construct(weights=WeightFormat(weights))
    return spec.model_copy(update={"quantization": wanted})


def checkpoint_of(spec: BuildSpec, cache: Path) -> Directory:
    """The checkpoint's small files; weights are neither downloaded nor hashed."""
    if isinstance(spec.source, LocalSource):
        return Directory.of(Path(spec.source.path))
    return find(spec.source, cache, Tracker(lambda progress: None)).directory
