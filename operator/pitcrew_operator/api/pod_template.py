"""The escape hatch: what users lay over the template of the pods that serve.

Any field of a pod may be given but those that make the pods ours: what they run, how they are known
to be ready, where the engine lies. Each of these is refused with the field to use instead.
"""

from collections.abc import Iterator, Mapping
from posixpath import normpath
from typing import Any, Final, Self

from pydantic import Field, model_validator

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import GROUP, Annotations, LabelMap

RUNTIME_CONTAINER: Final = "runtime"
ENGINE_CONTAINER: Final = "engine"

_OURS: Final = "leave it out; the operator sets it"
_RANKS: Final = "leave it out; groups of pods need the operator's"
_POD: Final = {
    "nodeSelector": "set spec.runtime.nodeSelector",
    "tolerations": "set spec.runtime.tolerations",
    "imagePullSecrets": "set spec.runtime.imagePullSecrets",
    "serviceAccountName": "set spec.runtime.serviceAccountName",
    "serviceAccount": "set spec.runtime.serviceAccountName",
    "priorityClassName": "set spec.runtime.priorityClassName",
    "topologySpreadConstraints": "set spec.runtime.topologySpreadConstraints",
    "terminationGracePeriodSeconds": "set spec.runtime.drainSeconds",
    "restartPolicy": _OURS,
    "hostname": _RANKS,
    "subdomain": _RANKS,
}
_RUNTIME: Final = {
    "image": "set spec.runtime.image",
    "resources": "set spec.runtime.resources",
    "command": _OURS,
    "args": _OURS,
    "startupProbe": "set spec.runtime.startupSeconds",
    "readinessProbe": _OURS,
    "livenessProbe": _OURS,
    "lifecycle": "set spec.runtime.drainSeconds",
}
_ENGINE_MAY: Final = frozenset(
    {"name", "env", "envFrom", "resources", "securityContext", "volumeMounts"}
)
_VOLUMES: Final = frozenset({"engine", "adapters", "ranks", "ranks-tls", "tmp"})
_PATHS: Final = (
    *("/engine", "/adapters", "/ranks", "/ranks-tls", "/pulled"),
    "/tmp",  # noqa: S108 (a path inside a pod)
)
_PORTS: Final = {"containerPort": (8000, 8002), "name": ("http", "ranks")}
_LABELS: Final = (f"{GROUP}/", "app.kubernetes.io/", "leaderworkerset.sigs.k8s.io/")


class PodTemplateMetadata(Model):
    """Labels and annotations of the pods."""

    labels: LabelMap = Field(default={}, description="Labels beside the operator's own.")
    annotations: Annotations = Field(
        default={}, description="Annotations beside the operator's own."
    )


class PodTemplate(Model):
    """What is laid over the pods' template."""

    metadata: PodTemplateMetadata = Field(
        default=PodTemplateMetadata(), description="Labels and annotations of the pods."
    )
    spec: dict[str, Any] = Field(
        default={},
        description="Fields of a pod's spec. Objects are merged; containers, volumes, env, ports and "
        "volumeMounts are merged by their key; other lists replace; null removes.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )

    @model_validator(mode="after")
    def _leaves_ours_alone(self) -> Self:
        problem = next(_problems(self), None)
        if problem is not None:
            raise ValueError(problem)
        return self


def _problems(template: PodTemplate) -> Iterator[str]:
    metadata = template.metadata
    for field, keys in (("labels", metadata.labels), ("annotations", metadata.annotations)):
        yield from (
            f"metadata.{field}['{key}'] is the operator's; choose a key with another prefix"
            for key in keys
            if key.startswith(_LABELS)
        )
    yield from _owned("spec", template.spec, _POD)
    for kind in ("containers", "initContainers"):
        for name, container in _named(template.spec, "spec", kind):
            yield from _container(f"spec.{kind}[{name}]", kind, name, container)
    for name, _ in _named(template.spec, "spec", "volumes"):
        if name in _VOLUMES:
            yield f"spec.volumes[{name}] is the operator's; choose another name"


def _container(path: str, kind: str, name: str, container: Mapping[str, Any]) -> Iterator[str]:
    if (kind, name) == ("containers", RUNTIME_CONTAINER):
        yield from _owned(path, container, _RUNTIME)
        for port in _objects(container, path, "ports"):
            if any(port.get(key) in values for key, values in _PORTS.items()):
                yield f"{path}.ports: 8000 (http) and 8002 (ranks) are the operator's; use others"
        for name_, _ in _named(container, path, "env"):
            if name_ == "HOME" or name_.startswith("LWS_"):
                yield f"{path}.env[{name_}] is the operator's; leave it out"
    elif (kind, name) == ("initContainers", ENGINE_CONTAINER):
        yield from _owned(path, container, dict.fromkeys(container.keys() - _ENGINE_MAY, _OURS))
        _objects(container, path, "env")
    else:
        return
    for mount in _objects(container, path, "volumeMounts"):
        where = "/" + normpath(f"/{mount.get('mountPath')}").lstrip("/")
        if where in _PATHS or where.startswith("/engine/"):
            yield f"{path}.volumeMounts: {where} is the operator's; choose another mountPath"


def _owned(path: str, given: Mapping[str, Any], owned: Mapping[str, str]) -> Iterator[str]:
    for field in sorted(given.keys() & owned.keys()):
        yield f"{path}.{field} is the operator's; {owned[field]}"


def _objects(parent: Mapping[str, Any], path: str, field: str) -> list[Mapping[str, Any]]:
    """The entries of a list that holds some of ours. Raises ValueError where they are no objects; null
    would remove ours.
    """
    found = parent.get(field, [])
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise ValueError(f"{path}.{field} must be a list of objects")
    return found


def _named(
    parent: Mapping[str, Any], path: str, field: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same, by name. Raises ValueError where one has none."""
    for entry in _objects(parent, path, field):
        name = entry.get("name")
        if not name or not isinstance(name, str):
            raise ValueError(f"{path}.{field}: every entry needs a name")
        yield name, entry
