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
_TLS_VOLUME: Final = "ranks-tls"
_TLS_MOUNT: Final = "/ranks-tls"


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
    if owner.spec.runtime.rank_tls_secret_ref is not None:
        options["--rank-tls-dir"] = _TLS_MOUNT
    return [word for name, value in options.items() for word in (name, str(value))]


def volumes(owner: Deployment, role: Role) -> list[dict[str, Any]]:
    """The secrets that the pods of a group share, where the user gave any."""
    found: list[dict[str, Any]] = []
    if role is Role.ONLY:
        return found
    token, tls = owner.spec.runtime.rank_token_secret_ref, owner.spec.runtime.rank_tls_secret_ref
    if token is not None:
        items = [{"key": token.key, "path": "token"}]
        found.append({"name": _VOLUME, "secret": {"secretName": token.name, "items": items}})
    if tls is not None:
        found.append({"name": _TLS_VOLUME, "secret": {"secretName": tls.name}})
    return found


def mounts(owner: Deployment, role: Role) -> list[dict[str, Any]]:
    """Their places in the container."""
    places = {_VOLUME: _MOUNT, _TLS_VOLUME: _TLS_MOUNT}
    names = [volume["name"] for volume in volumes(owner, role)]
    return [pod.mount(name, places[name], readOnly=True) for name in names]
