"""The Job that builds one engine."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pitcrew_builder.report import EXIT_REFUSED
from pitcrew_operator.api.common import dump
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import ENGINE
from pitcrew_operator.manifests import builder_pod, names
from pitcrew_operator.views import Claim, Engine

BACKOFF_LIMIT: Final = 3


@dataclass(frozen=True)
class Build:
    """Everything that one build is made from; a change of any of it is another build."""

    engine: Engine
    store: Claim
    config: Config

    @property
    def image(self) -> str:
        """The builder's image."""
        return builder_pod.image_of(self.engine, self.config)

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
    pod_spec = builder_pod.pod_spec(_task(build))
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
            "template": {"metadata": {"labels": labels}, "spec": pod_spec},
        },
    }


# A refused spec is refused again; an evicted pod is nobody's failure.
_FAILURE_POLICY: Final = {
    "rules": [
        {
            "action": "FailJob",
            "onExitCodes": {
                "containerName": builder_pod.CONTAINER,
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


def _task(build: Build) -> builder_pod.Task:
    return builder_pod.Task(
        engine=build.engine,
        config=build.config,
        arguments=_arguments(build),
        resources=dump(build.engine.spec.build.resources),
        store=build.store,
    )


def _arguments(build: Build) -> list[str]:
    options = {
        "--spec-json": build.spec_json,
        "--store": builder_pod.STORE_MOUNT,
        "--cache": "/cache",
        "--outcome": "/dev/termination-log",
        "--progress": "json",
    }
    return ["build", *(word for pair in options.items() for word in pair)]
