"""The pod that runs a command of the builder's image over one LLMEngine: where its inputs lie.

What a build may reach, a look at its inputs may reach too: the same volumes, the same credentials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pitcrew_operator.api.common import dump
from pitcrew_operator.api.prompts import PROMPTS_MOUNT
from pitcrew_operator.api.source import MODELS_MOUNT
from pitcrew_operator.config import Config
from pitcrew_operator.manifests import pod
from pitcrew_operator.manifests import store as stores
from pitcrew_operator.manifests.store import Store
from pitcrew_operator.views import Engine

CONTAINER: Final = "build"
BUILD_COMMAND: Final = "pitcrew-build"
_GPU_LABELS: Final = "nvidia.com/"


@dataclass(frozen=True)
class Task:
    """One command of the builder."""

    engine: Engine
    config: Config
    arguments: Sequence[str]
    resources: Mapping[str, Any]
    """The container's `resources`; empty leaves them open."""
    command: str = BUILD_COMMAND
    store: Store | None = None
    """Open for writing where the command publishes or removes."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    """On top of the spec's own."""
    is_light: bool = False
    """It needs no GPU, so labels of GPUs must not lead it to a node that has one."""

    @property
    def image(self) -> str:
        """The builder's image."""
        return image_of(self.engine, self.config)

    @property
    def reads_sources(self) -> bool:
        """Whether it needs the checkpoint and prompts; what tends the store needs neither."""
        return self.command == BUILD_COMMAND


def image_of(engine: Engine, config: Config) -> str:
    """The image that builds an engine."""
    return engine.spec.build.image or config.builder_image


def pod_spec(task: Task) -> dict[str, Any]:
    """The pod's spec."""
    return {
        "restartPolicy": "Never",
        "securityContext": pod.pod_security(fs_group=True),
        **_placement(task),
        "containers": [_container(task)],
        "volumes": _volumes(task),
    }


def _placement(task: Task) -> dict[str, Any]:
    chosen = pod.placement(task.engine.spec.build, task.config)
    selector = {**chosen.pop("nodeSelector", {}), **task.node_selector}
    if task.is_light:
        selector = {k: v for k, v in selector.items() if not k.startswith(_GPU_LABELS)}
    return chosen | ({"nodeSelector": selector} if selector else {})


def _container(task: Task) -> dict[str, Any]:
    environment = [{"name": "HOME", "value": "/tmp"}, *_token(task), *_keys(task)]  # noqa: S108 (an emptyDir)
    return {
        "name": CONTAINER,
        "image": task.image,
        "imagePullPolicy": task.config.builder_pull_policy,
        "command": [task.command],
        "args": list(task.arguments),
        "env": environment,
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(task),
        **({"resources": dict(task.resources)} if task.resources else {}),
    }


def _token(task: Task) -> list[dict[str, Any]]:
    hub = task.engine.spec.model.hugging_face
    if hub is None or hub.token_secret_ref is None or not task.reads_sources:
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": dump(hub.token_secret_ref)}}]


def _keys(task: Task) -> list[dict[str, Any]]:
    s3 = task.engine.spec.model.s3
    source = stores.keys(s3, stores.SOURCE_KEYS) if s3 and task.reads_sources else []
    return source + (stores.environment(task.store) if task.store else [])


def _source_claim(task: Task) -> str | None:
    return task.engine.spec.model.claim_name if task.reads_sources else None


def _volumes(task: Task) -> list[dict[str, Any]]:
    claim = _source_claim(task)
    source = [pod.claim_volume("models", claim, read_only=True)] if claim else []
    store = stores.volumes(task.store) if task.store else []
    prompts = [
        {"name": f"prompts-{index}", "configMap": {"name": name}}
        for index, name in enumerate(_config_maps(task))
    ]
    return [*store, *source, *prompts, pod.scratch("cache"), pod.scratch("tmp")]


def _mounts(task: Task) -> list[dict[str, Any]]:
    source = [pod.mount("models", MODELS_MOUNT, readOnly=True)] if _source_claim(task) else []
    store = stores.mounts(task.store) if task.store else []
    prompts = [
        pod.mount(f"prompts-{index}", f"{PROMPTS_MOUNT}/{name}", readOnly=True)
        for index, name in enumerate(_config_maps(task))
    ]
    return [
        *store,
        *source,
        *prompts,
        pod.mount("cache", "/cache"),
        pod.mount("tmp", "/tmp"),  # noqa: S108 (an emptyDir of the pod)
    ]


def _config_maps(task: Task) -> list[str]:
    """Names of those that prompts come from."""
    keys = task.engine.spec.config_maps if task.reads_sources else ()
    return list(dict.fromkeys(key.name for key in keys))
