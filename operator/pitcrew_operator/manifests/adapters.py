"""How a pod that serves comes by its LoRA adapters: a read-only volume, and options."""

from typing import Any, Final

from pitcrew_operator.api.adapters import AdapterSettings
from pitcrew_operator.manifests import pod

_VOLUME: Final = "adapters"
_MOUNT: Final = "/adapters"


def volumes(settings: AdapterSettings | None) -> list[dict[str, Any]]:
    """The claim, where there is one."""
    if settings is None:
        return []
    return [pod.claim_volume(_VOLUME, settings.claim_name, read_only=True)]


def mounts(settings: AdapterSettings | None) -> list[dict[str, Any]]:
    """Its place in the container."""
    return [] if settings is None else [pod.mount(_VOLUME, _MOUNT, readOnly=True)]


def arguments(settings: AdapterSettings | None) -> list[str]:
    """What the runtime is told."""
    if settings is None:
        return []
    modules = [f"{module.name}={_MOUNT}/{module.path}" for module in settings.modules]
    loaded = ["--lora-modules", *modules] if modules else []
    updates = ["--enable-runtime-lora", "--lora-root", _MOUNT] if settings.runtime_updates else []
    count = settings.max_in_memory
    memory = ["--max-cpu-loras", str(count)] if count is not None else []
    return [*loaded, *updates, *memory]
