"""How the ranks of an engine are dealt out over the pods of a replica, and how these find each other.

The first pod leads: it answers requests and holds the first ranks. The controller of the group tells
every pod its place and the leader's address by the environment; what the runtime has to know beside
that stands here.
"""

from enum import Enum
from typing import Any, Final

from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.manifests import pod
from pitcrew_operator.views import Deployment

PORT: Final = 8002
"""Where the pods of a group call each other."""
_VOLUME: Final = "ranks"
_MOUNT: Final = "/ranks"


class Role(Enum):
    """What a pod is in its replica."""

    ONLY = "only"
    """All of it."""
    LEADER = "leader"
    """The one that answers requests."""
    WORKER = "worker"
    """One that holds ranks only."""


def held(owner: Deployment, engine: EngineStatus) -> int:
    """Ranks that one pod holds."""
    return min(owner.spec.ranks_per_pod or engine.world_size, engine.world_size)


def pods(owner: Deployment, engine: EngineStatus) -> int:
    """Pods of one replica."""
    return -(-engine.world_size // held(owner, engine))


def ports(role: Role) -> list[dict[str, Any]]:
    """The container's port for the other pods, where there are any."""
    if role is Role.ONLY:
        return []
    return [{"name": "ranks", "containerPort": PORT, "protocol": "TCP"}]


def arguments(owner: Deployment, engine: EngineStatus) -> list[str]:
    """What the runtime of every pod of a group is told."""
    if pods(owner, engine) == 1:
        return []
    options: dict[str, object] = {
        "--ranks-per-pod": held(owner, engine),
        "--rank-port": PORT,
        # Images are pulled and engines verified at a pace of their own on each node.
        "--rank-join-seconds": owner.spec.runtime.startup_seconds,
    }
    if owner.spec.runtime.rank_token_secret_ref is not None:
        options["--rank-token-file"] = f"{_MOUNT}/token"
    return [word for name, value in options.items() for word in (name, str(value))]


def volumes(owner: Deployment, role: Role) -> list[dict[str, Any]]:
    """The secret that the pods of a group share, where the user gave one."""
    token = owner.spec.runtime.rank_token_secret_ref
    if token is None or role is Role.ONLY:
        return []
    items = [{"key": token.key, "path": "token"}]
    return [{"name": _VOLUME, "secret": {"secretName": token.name, "items": items}}]


def mounts(owner: Deployment, role: Role) -> list[dict[str, Any]]:
    """Its place in the container."""
    return [pod.mount(_VOLUME, _MOUNT, readOnly=True)] if volumes(owner, role) else []
