"""The Job that builds one engine."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pitcrew_builder.report import EXIT_REFUSED
from pitcrew_operator.api.common import dump
from pitcrew_operator.api.source import MODELS_MOUNT
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import ENGINE
from pitcrew_operator.manifests import names, pod
from pitcrew_operator.views import Claim, Engine

CONTAINER: Final = "build"
BACKOFF_LIMIT: Final = 3
_STORE_MOUNT: Final = "/engines"
_S3_KEYS: Final[dict[str, dict[str, bool]]] = {
    "AWS_ACCESS_KEY_ID": {},
    "AWS_SECRET_ACCESS_KEY": {},
    "AWS_SESSION_TOKEN": {"optional": True},
}
"""Keys of the Secret, and the SDK's names for them in the environment."""


@dataclass(frozen=True)
class Build:
    """Everything that one build is made from; a change of any of it is another build."""

    engine: Engine
    store: Claim
    config: Config

    @property
    def image(self) -> str:
        """The builder's image."""
        return self.engine.spec.build.image or self.config.builder_image

    @cached_property
    def spec_json(self) -> str:
        """The BuildSpec as the builder reads it. Raises ValueError for an impossible layout."""
        return self.engine.spec.build_spec().model_dump_json(by_alias=True)

    @cached_property
    def spec_hash(self) -> str:
        """8 hex digits. The claim's UID is part of it: an emptied store needs a new build."""
        return names.digest(
            {
                "owner": self.engine.meta.uid,
                "spec": self.spec_json,
                "model": dump(self.engine.spec.model),
                "build": dump(self.engine.spec.build),
                "store": [self.store.name, self.store.uid],
                "image": self.image,
                "rebuild": self.engine.meta.annotations.get(names.REBUILD_ANNOTATION),
            }
        )

    @property
    def job_name(self) -> str:
        """Deterministic, so that a repeated creation meets the same Job."""
        return names.job_name(self.engine.meta.name, self.spec_hash)


def job_manifest(build: Build) -> dict[str, Any]:
    """The Job. It owns no lifetime of its own: the operator deletes it when it is of no more use."""
    meta = build.engine.meta
    labels = names.labels("build", meta.name, {names.ENGINE_LABEL: meta.name})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": build.job_name,
            "namespace": meta.namespace,
            "labels": labels,
            "ownerReferences": [names.owner_reference(ENGINE, meta)],
        },
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "activeDeadlineSeconds": build.engine.spec.build.active_deadline_seconds,
            "podFailurePolicy": _FAILURE_POLICY,
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(build)},
        },
    }


# A refused spec is refused again; an evicted pod is nobody's failure.
_FAILURE_POLICY: Final = {
    "rules": [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": CONTAINER,
                "operator": "In",
                "values": [EXIT_REFUSED],
            },
        },
        {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        },
    ]
}


def _pod_spec(build: Build) -> dict[str, Any]:
    return {
        "restartPolicy": "Never",
        "securityContext": pod.pod_security(fs_group=True),
        **pod.placement(build.engine.spec.build, build.config),
        "containers": [_container(build)],
        "volumes": _volumes(build),
    }


def _container(build: Build) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": build.image,
        "imagePullPolicy": build.config.builder_pull_policy,
        "command": ["pitcrew-build"],
        "args": _arguments(build),
        "env": [{"name": "HOME", "value": "/tmp"}, *_token(build), *_keys(build)],  # noqa: S108 (an emptyDir)
        "securityContext": pod.CONTAINER_SECURITY,
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(build),
        **pod.resources(build.engine.spec.build),
    }


def _arguments(build: Build) -> list[str]:
    options = {
        "--spec-json": build.spec_json,
        "--store": _STORE_MOUNT,
        "--cache": "/cache",
        "--outcome": "/dev/termination-log",
        "--progress": "json",
    }
    return ["build", *(word for pair in options.items() for word in pair)]


def _token(build: Build) -> list[dict[str, Any]]:
    hub = build.engine.spec.model.hugging_face
    if hub is None or hub.token_secret_ref is None:
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": dump(hub.token_secret_ref)}}]


def _keys(build: Build) -> list[dict[str, Any]]:
    """The keys of object storage; a session token only where the Secret holds one."""
    s3 = build.engine.spec.model.s3
    if s3 is None or s3.credentials_secret_ref is None:
        return []
    secret = {"name": s3.credentials_secret_ref.name}
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {**secret, "key": name, **more}}}
        for name, more in _S3_KEYS.items()
    ]


def _volumes(build: Build) -> list[dict[str, Any]]:
    claim = build.engine.spec.model.claim_name
    source = [pod.claim_volume("models", claim, read_only=True)] if claim else []
    store = pod.claim_volume("engines", build.store.name)
    return [store, *source, pod.scratch("cache"), pod.scratch("tmp")]


def _mounts(build: Build) -> list[dict[str, Any]]:
    claim = build.engine.spec.model.claim_name
    source = [pod.mount("models", MODELS_MOUNT, readOnly=True)] if claim else []
    return [
        pod.mount("engines", _STORE_MOUNT),
        *source,
        pod.mount("cache", "/cache"),
        pod.mount("tmp", "/tmp"),  # noqa: S108 (an emptyDir of the pod)
    ]
