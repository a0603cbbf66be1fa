"""GPU products: memory and bandwidth as their data sheets give them, in decimal units."""

from collections.abc import Mapping
from dataclasses import dataclass

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.spec import ComputeCapability

_GB = 10**9


@dataclass(frozen=True, slots=True)
class Gpu:
    """One product."""

    product: str
    capability: ComputeCapability
    memory: int
    """Bytes."""
    bandwidth: int
    """Bytes a second that memory can be read at."""


def _gpu(product: str, capability: ComputeCapability, memory_gb: int, gb_per_second: int) -> Gpu:
    return Gpu(product, capability, memory_gb * _GB, gb_per_second * _GB)


_SM = ComputeCapability
GPUS: Mapping[str, Gpu] = {
    gpu.product: gpu
    for gpu in (
        _gpu("T4", _SM.SM75, 16, 320),
        _gpu("A10", _SM.SM86, 24, 600),
        _gpu("A100-40GB", _SM.SM80, 40, 1555),
        _gpu("A100-80GB", _SM.SM80, 80, 2039),
        _gpu("L4", _SM.SM89, 24, 300),
        _gpu("L40S", _SM.SM89, 48, 864),
        _gpu("H100", _SM.SM90, 80, 3350),
        _gpu("H100-PCIe", _SM.SM90, 80, 2000),
        _gpu("H100-NVL", _SM.SM90, 94, 3900),
        _gpu("H200", _SM.SM90, 141, 4800),
        _gpu("B200", _SM.SM100, 180, 8000),
        _gpu("RTX-4090", _SM.SM89, 24, 1008),
        _gpu("RTX-5090", _SM.SM120, 32, 1792),
        _gpu("RTX-PRO-6000", _SM.SM120, 96, 1792),
    )
}
"""By product."""


def gpu_with(product: str, memory: int) -> Gpu:
    """A product with the memory that a node tells, in bytes; the table need not know it.

    Of one that it does not know, nothing is said about speed: its bandwidth is 0.
    """
    try:
        known = gpu_of(product)
    except InvalidSpec:
        return Gpu(product, ComputeCapability.SM75, memory, 0)
    return Gpu(product, known.capability, memory, known.bandwidth)


def gpu_of(name: str) -> Gpu:
    """The product of that name, or of a node's `nvidia.com/gpu.product` label that contains it.

    Raises `InvalidSpec` for a product that is not in the table.
    """
    words = set(name.lower().replace("_", "-").split("-"))
    found = [gpu for gpu in GPUS.values() if set(gpu.product.lower().split("-")) <= words]
    if not found:
        raise InvalidSpec(f"gpu '{name}' is not known; choose one of {', '.join(GPUS)}")
    return max(found, key=lambda gpu: len(gpu.product))
