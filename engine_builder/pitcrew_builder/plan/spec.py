"""The spec that a plan is about, where flags leave more open than a build may."""

from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.plan.gpus import Gpu
from pitcrew_builder.progress import Tracker
from pitcrew_builder.sources.find import find
from pitcrew_builder.spec import (
    BuildSpec,
    CacheFormat,
    ComputeCapability,
    LocalSource,
    Precision,
    Quantization,
    Target,
    WeightFormat,
)

Format = TypeVar("Format", bound=StrEnum)


def for_gpu(gpu: Gpu, precision: str | None) -> dict[str, Any]:
    """What a build for that product has in its spec; bf16 where the product computes in it."""
    half = Precision.FP16 if gpu.capability is ComputeCapability.SM75 else Precision.BF16
    return {
        "target": Target.TENSORRT,
        "precision": precision or half,
        "tensorrt": {"computeCapability": gpu.capability},
    }


def narrowed(spec: BuildSpec, weights: str | None, kv_cache: str | None) -> BuildSpec:
    """The spec quantized, without the prompts that a build would ask for: sizes need none.

    Raises `InvalidSpec` for a format that is not known.
    """
    if weights is None and kv_cache is None:
        return spec
    wanted = Quantization.model_construct(
        weights=_known(WeightFormat, "weights", weights),
        kv_cache=_known(CacheFormat, "kvCache", kv_cache),
    )
    return spec.model_copy(update={"quantization": wanted})


def _known(formats: type[Format], field: str, name: str | None) -> Format | None:
    if name is None:
        return None
    if name not in set(formats):
        raise InvalidSpec(f"{field} '{name}' is not known; choose {', '.join(formats)}")
    return formats(name)


def checkpoint_of(spec: BuildSpec, cache: Path) -> Directory:
    """The checkpoint's small files; weights are neither downloaded nor hashed."""
    if isinstance(spec.source, LocalSource):
        return Directory.of(Path(spec.source.path))
    return find(spec.source, cache, Tracker(lambda progress: None)).directory
