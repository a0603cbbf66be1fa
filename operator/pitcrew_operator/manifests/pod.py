"""What all our pods share: no privileges, a read-only root, no token, scratch space in /tmp."""

from typing import Any, Final

from pitcrew_operator.api.common import PodSettings, dump
from pitcrew_operator.config import Config

UID: Final = 10001

CONTAINER_SECURITY: Final[dict[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod_security(*, fs_group: bool) -> dict[str, Any]:
    """The pod's security context; `fs_group` hands mounted volumes to our group."""
    base: dict[str, Any] = {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    shared = {"fsGroup": UID, "fsGroupChangePolicy": "OnRootMismatch"}
    return base | (shared if fs_group else {})


def placement(settings: PodSettings, config: Config) -> dict[str, Any]:
    """Where and as whom the pod runs, as far as the user said so."""
    chosen = dump(settings)
    secrets = chosen.get("imagePullSecrets") or [{"name": n} for n in config.image_pull_secrets]
    fields = {
        "nodeSelector": chosen.get("nodeSelector"),
        "tolerations": chosen.get("tolerations"),
        "serviceAccountName": chosen.get("serviceAccountName"),
        "priorityClassName": chosen.get("priorityClassName"),
        "imagePullSecrets": secrets,
    }
    isolation = {"automountServiceAccountToken": False, "enableServiceLinks": False}
    return isolation | {name: value for name, value in fields.items() if value}


def resources(settings: PodSettings) -> dict[str, Any]:
    """The container's `resources`, or nothing where the user left them open."""
    chosen = dump(settings.resources)
    return {"resources": chosen} if chosen else {}


def scratch(name: str) -> dict[str, Any]:
    """An empty volume that dies with the pod."""
    return {"name": name, "emptyDir": {}}


def memory(name: str) -> dict[str, Any]:
    """Likewise, in memory."""
    return {"name": name, "emptyDir": {"medium": "Memory"}}


def claim_volume(name: str, claim: str, *, read_only: bool = False) -> dict[str, Any]:
    """A volume from a claim."""
    source: dict[str, Any] = {"claimName": claim}
    return {
        "name": name,
        "persistentVolumeClaim": source | ({"readOnly": True} if read_only else {}),
    }


def mount(name: str, path: str, **more: object) -> dict[str, Any]:
    """A volume's place in the container."""
    return {"name": name, "mountPath": path, **more}
