"""The two CustomResourceDefinitions: names, columns, subresources and root rules."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from pitcrew_operator.api.common import GROUP, VERSION, Rule, cel
from pitcrew_operator.api.deployment import LLMDeploymentSpec, LLMDeploymentStatus
from pitcrew_operator.api.engine import LLMEngineSpec, LLMEngineStatus
from pitcrew_operator.crdgen.schema import Schema, structural


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`; priority 1 shows with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0

    def document(self) -> dict[str, Any]:
        """The column as the CRD spells it."""
        base: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return base | ({"priority": self.priority} if self.priority else {})


@dataclass(frozen=True)
class Definition:
    """All that one CRD is made of."""

    kind: str
    plural: str
    short: str
    description: str
    spec: type[BaseModel]
    status: type[BaseModel]
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    scale: bool = False

    @property
    def name(self) -> str:
        """Name of the CRD object, which is also its file's stem."""
        return f"{self.plural}.{GROUP}"


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_READY = Column("Ready", _condition("Ready", "status"))
_REASON = Column("Reason", _condition("Ready", "reason"))

ENGINE = Definition(
    kind="LLMEngine",
    plural="llmengines",
    short="llme",
    description="A checkpoint and the engine that is built from it.",
    spec=LLMEngineSpec,
    status=LLMEngineStatus,
    columns=(
        Column("Model", ".status.model"),
        Column("Precision", ".spec.precision"),
        Column("CUDA", ".status.engine.cuda"),
        _READY,
        _REASON,
        Column("Progress", ".status.progress"),
        Column("UpToDate", _condition("UpToDate", "status"), priority=1),
        Column("Engine", ".status.engine.tag", priority=1),
        _AGE,
    ),
    rules=(
        Rule(
            rule="self.metadata.name.size() <= 63",
            message="metadata.name must be at most 63 characters: it becomes a label of the build",
        ),
    ),
)

DEPLOYMENT = Definition(
    kind="LLMDeployment",
    plural="llmdeployments",
    short="llmd",
    description="Replicas that serve an LLMEngine behind a Service.",
    spec=LLMDeploymentSpec,
    status=LLMDeploymentStatus,
    columns=(
        Column("Engine", ".spec.engineRef.name"),
        _READY,
        _REASON,
        Column("Replicas", ".status.readyReplicas", "integer"),
        Column("Desired", ".status.autoscaling.desiredReplicas", "integer", priority=1),
        Column("GPU %", ".status.gpuUtilizationPercent", "integer"),
        Column("URL", ".status.url"),
        Column("Rollout", ".status.rollout.phase", priority=1),
        Column("UpToDate", _condition("UpToDate", "status"), priority=1),
        _AGE,
    ),
    rules=(
        Rule(
            rule="self.metadata.name.size() <= 52 && "
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message="metadata.name must be a DNS label of at most 52 characters that starts with a "
            "letter: it becomes the name of the Service",
        ),
    ),
    scale=True,
)

DEFINITIONS = (ENGINE, DEPLOYMENT)


def manifest(definition: Definition) -> dict[str, Any]:
    """The CustomResourceDefinition object."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.name},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": definition.kind,
                "listKind": f"{definition.kind}List",
                "plural": definition.plural,
                "singular": definition.kind.lower(),
                "shortNames": [definition.short],
                "categories": ["pitcrew"],
            },
            "versions": [_version(definition)],
        },
    }


def _version(definition: Definition) -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": _subresources(definition),
        "additionalPrinterColumns": [column.document() for column in definition.columns],
        "schema": {"openAPIV3Schema": _schema(definition)},
    }


def _subresources(definition: Definition) -> dict[str, Any]:
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return {"status": {}} | ({"scale": scale} if definition.scale else {})


def _schema(definition: Definition) -> Schema:
    return {
        "type": "object",
        "description": definition.description,
        "required": ["spec"],
        **cel(*definition.rules),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(definition.spec),
            # Before the operator's first word too, nobody shall take the resource for current.
            "status": structural(definition.status) | {"default": {"observedGeneration": 0}},
        },
    }
