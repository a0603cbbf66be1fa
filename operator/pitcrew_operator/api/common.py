"""Pieces that both custom resources are made of.

Spec models are closed (an unknown field is an error), status models are open: a status may have
been written by a newer or older operator, and reading it must never fail for that.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from pitcrew_builder.spec import Model, S3Location

GROUP = "pitcrew.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


@dataclass(frozen=True)
class Rule:
    """A CEL rule for the API server to enforce, and what it tells the user."""

    rule: str
    message: str


def cel(*rules: Rule) -> dict[str, Any]:
    """The rules as an extra of a JSON schema."""
    return {"x-kubernetes-validations": [asdict(rule) for rule in rules]}


ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
ImageName = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")]
Quantity = Annotated[
    int | str,
    Field(
        json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": QUANTITY},
    ),
]
LabelMap = Annotated[
    dict[str, Annotated[str, Field(max_length=63)]],
    Field(max_length=32),
]


Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=32768)]],
    Field(max_length=64),
]


class StatusModel(Model):
    """Base of everything under `status`: frozen, camelCase, tolerant of unknown fields."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """One condition, by the conventions of `meta/v1`."""

    type: str = Field(max_length=316, description="Ready, Reconciling or Stalled.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="One CamelCase word for programs.")
    message: str = Field(max_length=32768, description="What is the case and what to do about it.")
    last_transition_time: str = Field(description="RFC 3339: when `status` last changed.")
    observed_generation: int = Field(
        default=0, ge=0, description="The generation of the resource that this is about."
    )


class ResourceStatus(StatusModel):
    """What the status of every resource of ours begins with."""

    observed_generation: int = Field(
        default=0, ge=0, description="The generation that this status is about."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        description="Ready, Reconciling and Stalled.",
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )


class LocalObjectReference(Model):
    """A name in the same namespace."""

    name: ObjectName = Field(description="Name of the object, in the resource's own namespace.")


class SecretKey(Model):
    """One key of a Secret in the same namespace."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: str = Field(
        default="token", min_length=1, max_length=253, description="Key inside the Secret."
    )


class S3Bucket(S3Location):
    """A place in object storage, and the Secret that opens it."""

    credentials_secret_ref: LocalObjectReference | None = Field(
        default=None,
        description="Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and "
        "AWS_SESSION_TOKEN where there is one. Default: the identity of the pod.",
    )

    @property
    def location(self) -> S3Location:
        """The place alone."""
        return S3Location(**self.model_dump(include=set(S3Location.model_fields)))


class ResourceRequirements(Model):
    """Requests and limits of the one container."""

    requests: dict[str, Quantity] = Field(
        default={}, max_length=16, description="What the scheduler sets aside, such as cpu: 200m."
    )
    limits: dict[str, Quantity] = Field(
        default={}, max_length=16, description="What the container may use at most."
    )


class Toleration(Model):
    """A taint that the pod accepts."""

    key: str | None = Field(default=None, max_length=317, description="Taint key; absent: all.")
    operator: Literal["Exists", "Equal"] | None = Field(
        default=None, description="Exists or Equal (the default)."
    )
    value: str | None = Field(default=None, max_length=63, description="Taint value for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; absent: all."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, description="How long a NoExecute taint is tolerated; absent: forever."
    )


class PodSettings(Model):
    """What the pods of a build and of a deployment have in common."""

    image: ImageName | None = Field(
        default=None, description="Container image in place of the operator's own choice."
    )
    resources: ResourceRequirements = Field(
        default=ResourceRequirements(), description="Requests and limits of the container."
    )
    node_selector: LabelMap = Field(default={}, description="Labels that a node must carry.")
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="Taints that the pods accept."
    )
    image_pull_secrets: tuple[LocalObjectReference, ...] = Field(
        default=(), max_length=16, description="Secrets for pulling the image."
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="Service account of the pods. Its token is not mounted; it serves admission "
        "policies and pull secrets.",
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of the pods: whom they may displace."
    )


def dump(model: Model) -> dict[str, Any]:
    """The document as Kubernetes sees it: camelCase, without absent or empty fields."""
    return prune(model.model_dump(mode="json", by_alias=True, exclude_none=True))


def prune(document: Mapping[str, Any]) -> dict[str, Any]:
    """Drop None, empty maps and empty lists, at every depth of maps."""
    inner = {
        key: prune(value) if isinstance(value, Mapping) else value
        for key, value in document.items()
    }
    return {key: value for key, value in inner.items() if value not in (None, {}, [], ())}


def wrong_fields(error: ValueError) -> str:
    """What does not fit together in a spec, each by its field: for conditions, not for programmers.

    Rules over several fields begin with the field to change themselves.
    """
    if not isinstance(error, ValidationError):
        return f"spec.{error}"
    return "; ".join(_wrong(problem) for problem in error.errors(include_url=False)[:5])


def _wrong(problem: ErrorDetails) -> str:
    place = ".".join(["spec", *map(str, problem["loc"])])
    rule = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {rule}" if problem["loc"] else f"{place}.{rule}"
