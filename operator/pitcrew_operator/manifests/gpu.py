"""What a serving pod needs of a node because of its engine: plans run on one kind of GPU.

The labels are those of NVIDIA's GPU feature discovery; the taint is the one that its operator and
the clouds put on nodes with GPUs.
"""

import re
from typing import Any, Final

from pitcrew_operator.api.common import dump
from pitcrew_operator.api.deployment import RuntimeSettings
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.gpus import PRODUCT
from pitcrew_operator.manifests import pod

GPU: Final = "nvidia.com/gpu"
_VENDOR: Final = "nvidia.com/"
_TOLERATION: Final = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
_SHARED: Final = "shm"
_CAPABILITY: Final = re.compile(r"^sm(\d+)(\d)$")


def node_selector(engine: EngineStatus, chosen: dict[str, str]) -> dict[str, str]:
    """The user's selector; nodes with the engine's GPUs where it names no GPU itself."""
    if any(label.startswith(_VENDOR) for label in chosen):
        return chosen
    return {**_nodes(engine), **chosen}


def _nodes(engine: EngineStatus) -> dict[str, str]:
    if engine.gpu_product is not None:
        return {PRODUCT: engine.gpu_product}
    found = _CAPABILITY.match(engine.compute_capability or "")
    if found is None:
        return {}
    return {f"{GPU}.compute.major": found[1], f"{GPU}.compute.minor": found[2]}


def tolerations(engine: EngineStatus, chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The user's, and that of the taint on nodes with GPUs where the engine needs one."""
    if engine.compute_capability is None or _TOLERATION in chosen:
        return chosen
    return [*chosen, dict(_TOLERATION)]


def holds_gpus(capability: str | None, runtime: RuntimeSettings) -> bool:
    """Whether pods of an engine for this compute capability hold GPUs, or slices of some."""
    return _asks_for_gpus(runtime) or capability is not None


def _asks_for_gpus(runtime: RuntimeSettings) -> bool:
    """Whether the user's own limits name something of the vendor's."""
    return any(name.startswith(_VENDOR) for name in runtime.resources.limits)


def resources(engine: EngineStatus, runtime: RuntimeSettings, ranks: int) -> dict[str, Any]:
    """The container's resources: a GPU for each rank, unless the user asks for some of the vendor's."""
    chosen = dump(runtime.resources)
    limits = chosen.get("limits", {})
    if engine.compute_capability is None or _asks_for_gpus(runtime):
        return chosen
    return {**chosen, "limits": {**limits, GPU: ranks}}


def volumes(engine: EngineStatus) -> list[dict[str, Any]]:
    """Memory for NCCL where several GPUs serve: it needs more than the 64 MiB that containers are given.

    What is used of it counts as the container's memory.
    """
    if engine.compute_capability is None or engine.world_size == 1:
        return []
    return [pod.memory(_SHARED)]


def mounts(engine: EngineStatus) -> list[dict[str, Any]]:
    """Its place in the container."""
    return [pod.mount(each["name"], "/dev/shm") for each in volumes(engine)]  # noqa: S108 (NCCL's)
