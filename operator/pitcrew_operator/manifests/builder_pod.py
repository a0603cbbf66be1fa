"""The pod that runs a command of the builder's image over one LLMEngine: where its inputs lie.

What a build may reach, a look at its inputs may reach too: the same volumes, the same credentials.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pitcrew_operator.api.common import dump
from pitcrew_operator.api.source import MODELS_MOUNT
from pitcrew_operator.config import Config
from pitcrew_operator.manifests import pod
from pitcrew_operator.views import Claim, Engine

CONTAINER: Final = "build"
STORE_MOUNT: Final = "/engines"
_S3_KEYS: Final[dict[str, dict[str, bool]]] = {
    "AWS_ACCESS_KEY_ID": {},
    "AWS_SECRET_ACCESS_KEY": {},
    "AWS_SESSION_TOKEN": {"optional": True},
}
"""Keys of the Secret, and the SDK's names for them in the environment."""


@dataclass(frozen=True)
class Task:
    """One command of the builder."""

    engine: Engine
    config: Config
    arguments: Sequence[str]
    """Of `pitcrew-build`."""
    resources: dict[str, Any]
    """The container's `resources`; empty leaves them open."""
    store: Claim | None = None
    """Mounted for writing where the command publishes."""

    @property
    def image(self) -> str:
        """The builder's image."""
        return image_of(self.engine, self.config)


def image_of(engine: Engine, config: Config) -> str:
    """The image that builds an engine."""
    return engine.spec.build.image or config.builder_image


def pod_spec(task: Task) -> dict[str, Any]:
    """The pod's spec."""
    return {
        "restartPolicy": "Never",
        "securityContext": pod.pod_security(fs_group=True),
        **pod.placement(task.engine.spec.build, task.config),
        "containers": [_container(task)],
        "volumes": _volumes(task),
    }


def _container(task: Task) -> dict[str, Any]:
    environment = [{"name": "HOME", "value": "/tmp"}, *_token(task), *_keys(task)]  # noqa: S108 (an emptyDir)
    return {
        "name": CONTAINER,
        "image": task.image,
        "imagePullPolicy": task.config.builder_pull_policy,
        "command": ["pitcrew-build"],
        "args": list(task.arguments),
        "env": environment,
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(task),
        **({"resources": task.resources} if task.resources else {}),
    }


def _token(task: Task) -> list[dict[str, Any]]:
    hub = task.engine.spec.model.hugging_face
    if hub is None or hub.token_secret_ref is None:
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": dump(hub.token_secret_ref)}}]


def _keys(task: Task) -> list[dict[str, Any]]:
    """The keys of object storage; a session token only where the Secret holds one."""
    s3 = task.engine.spec.model.s3
    if s3 is None or s3.credentials_secret_ref is None:
        return []
    secret = {"name": s3.credentials_secret_ref.name}
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {**secret, "key": name, **more}}}
        for name, more in _S3_KEYS.items()
    ]


def _volumes(task: Task) -> list[dict[str, Any]]:
    claim = task.engine.spec.model.claim_name
    source = [pod.claim_volume("models", claim, read_only=True)] if claim else []
    store = [pod.claim_volume("engines", task.store.name)] if task.store else []
    return [*store, *source, pod.scratch("cache"), pod.scratch("tmp")]


def _mounts(task: Task) -> list[dict[str, Any]]:
    claim = task.engine.spec.model.claim_name
    source = [pod.mount("models", MODELS_MOUNT, readOnly=True)] if claim else []
    store = [pod.mount("engines", STORE_MOUNT)] if task.store else []
    return [
        *store,
        *source,
        pod.mount("cache", "/cache"),
        pod.mount("tmp", "/tmp"),  # noqa: S108 (an emptyDir of the pod)
    ]
