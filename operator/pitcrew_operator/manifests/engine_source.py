"""How a proven engine gets into a serving pod, and how its digests are checked before it is loaded.

From a volume the pod mounts the engine's own directory, read-only, and an init step verifies every
file. From object storage the init step pulls a verified copy: into the pod's own scratch space, or
into a claim that pods share as a cache. Either way the runtime sees one read-only directory.
"""

from typing import Any, Final

from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.manifests import pod, store

CONTAINER: Final = "engine"
ENGINE_MOUNT: Final = "/engine"
_VOLUME: Final = "engine"
_PULLED: Final = "/pulled"
_COPY: Final = "copy"
"""The copy's directory in the pod's own scratch space."""


def volumes(engine: EngineStatus, cache: str | None) -> list[dict[str, Any]]:
    """The volume that holds the engine. `cache` is a claim to keep pulled engines on."""
    if engine.claim_name is not None:
        return [pod.claim_volume(_VOLUME, engine.claim_name)]
    return [pod.claim_volume(_VOLUME, cache) if cache else pod.scratch(_VOLUME)]


def mount(engine: EngineStatus, cache: str | None) -> dict[str, Any]:
    """The engine's directory in the runtime's container."""
    return pod.mount(_VOLUME, ENGINE_MOUNT, readOnly=True, subPath=_directory(engine, cache))


def init_container(
    engine: EngineStatus, cache: str | None, runtime_image: str, config: Config
) -> dict[str, Any]:
    """The step that ends well only where the whole engine is there, every digest verified.

    Verifying needs nothing that the runtime's image lacks, and that image is on the node anyway;
    pulling needs the S3 client of the builder's.
    """
    pulls = engine.s3 is not None
    return {
        "name": CONTAINER,
        "image": config.builder_image if pulls else runtime_image,
        "imagePullPolicy": config.builder_pull_policy if pulls else config.runtime_pull_policy,
        "command": ["pitcrew-engine"],
        "args": [*_command(engine, cache), "--termination-log", "/dev/termination-log"],
        "env": [{"name": "HOME", "value": "/tmp"}, *_keys(engine)],  # noqa: S108 (an emptyDir)
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            pod.mount(_VOLUME, _PULLED) if pulls else mount(engine, cache),
            pod.mount("tmp", "/tmp"),  # noqa: S108 (an emptyDir of the pod)
        ],
        **_room(engine, cache),
    }


def _directory(engine: EngineStatus, cache: str | None) -> str:
    """Below the volume's root; a shared cache holds many engines, by their paths in the store."""
    return engine.path if engine.s3 is None or cache else _COPY


def _command(engine: EngineStatus, cache: str | None) -> list[str]:
    if engine.s3 is None:
        return ["verify", ENGINE_MOUNT]
    target = f"{_PULLED}/{_directory(engine, cache)}"
    return ["pull", engine.path, "--to", target, *store.arguments(store.Bucket(engine.s3))]


def _keys(engine: EngineStatus) -> list[dict[str, Any]]:
    return [] if engine.s3 is None else store.environment(store.Bucket(engine.s3))


def _room(engine: EngineStatus, cache: str | None) -> dict[str, Any]:
    """Makes the scheduler choose a node whose disk holds the copy."""
    if engine.s3 is None or cache:
        return {}
    return {"resources": {"requests": {"ephemeral-storage": str(engine.size_bytes)}}}
