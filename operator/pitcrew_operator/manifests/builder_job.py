"""The frame of every Job that runs the builder's image."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pitcrew_builder.report import EXIT_REFUSED
from pitcrew_operator.kinds import ENGINE
from pitcrew_operator.manifests import builder_pod, names
from pitcrew_operator.manifests.builder_pod import Task

BACKOFF_LIMIT: Final = 3
BUILD, RESOLVE, COLLECT = "build", "resolve", "collect"
"""Components: what a Job is for."""


@dataclass(frozen=True)
class Frame:
    """What one Job has around its pod."""

    name: str
    component: str
    task: Task
    owner: Mapping[str, Any]
    """The first reference to an owner."""
    labels: Mapping[str, str] = field(default_factory=dict)
    suspended: bool = False
    kept_seconds: int | None = None
    """After its end, until the cluster removes it; None: until the operator does."""


def job(frame: Frame) -> dict[str, Any]:
    """The Job."""
    meta = frame.task.engine.meta
    own = {names.ENGINE_LABEL: meta.name, **frame.labels}
    labels = names.labels(frame.component, meta.name, own)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": frame.name,
            "namespace": meta.namespace,
            "labels": labels,
            "ownerReferences": [dict(frame.owner)],
        },
        "spec": {
            **({"suspend": True} if frame.suspended else {}),
            **(
                {}
                if frame.kept_seconds is None
                else {"ttlSecondsAfterFinished": frame.kept_seconds}
            ),
            "backoffLimit": BACKOFF_LIMIT,
            "activeDeadlineSeconds": frame.task.engine.spec.build.active_deadline_seconds,
            "podFailurePolicy": _FAILURE_POLICY,
            "template": {
                "metadata": {"labels": labels},
                "spec": builder_pod.pod_spec(frame.task),
            },
        },
    }


def own_reference(task: Task) -> dict[str, Any]:
    """The owner of a Job that serves one LLMEngine alone."""
    return names.owner_reference(ENGINE, task.engine.meta)


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
