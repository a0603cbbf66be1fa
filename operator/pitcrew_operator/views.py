"""Typed, frozen readings of API objects: what plans look at instead of raw JSON.

Every function here accepts whatever an API server may send (absent maps, absent status).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from pitcrew_builder.spec import Model
from pitcrew_operator.api.common import StatusModel, wrong_fields
from pitcrew_operator.api.deployment import LLMDeploymentSpec, LLMDeploymentStatus
from pitcrew_operator.api.engine import LLMEngineSpec, LLMEngineStatus
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, Kind, Raw
from pitcrew_operator.quantity import parse_quantity

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
COMPONENT_LABEL = "app.kubernetes.io/component"
REFUSAL = "ReplicaFailure"
"""Condition of a built-in Deployment: the API server refuses its pods, or their removal."""

Spec = TypeVar("Spec", bound=Model)
Status = TypeVar("Status", bound=StatusModel)


@dataclass(frozen=True)
class Meta:
    """The part of `metadata` that plans need."""

    name: str
    namespace: str
    uid: str
    generation: int
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    deleting: bool
    controller: tuple[str, str, str] | None
    """Kind, name and UID of the controlling owner."""
    owners: tuple[tuple[str, str, str], ...] = ()
    """The same of every owner."""
    version: str = ""
    """The resource version that was read."""

    def is_owned_by(self, uid: str) -> bool:
        """Whether the object of that UID is one of the owners."""
        return any(owner == uid for _, _, owner in self.owners)

    @property
    def controller_uid(self) -> str | None:
        """UID of the controlling owner, if any."""
        return self.controller[2] if self.controller else None


def meta_of(raw: Raw) -> Meta:
    """Read the metadata of any object."""
    meta = raw["metadata"]
    owners = meta.get("ownerReferences") or ()
    owner = next((o for o in owners if o.get("controller")), None)
    return Meta(
        name=meta["name"],
        namespace=meta.get("namespace") or "",
        uid=meta.get("uid") or "",
        generation=meta.get("generation") or 0,
        annotations=meta.get("annotations") or {},
        labels=meta.get("labels") or {},
        deleting=bool(meta.get("deletionTimestamp")),
        controller=(owner["kind"], owner["name"], owner["uid"]) if owner else None,
        owners=tuple((o["kind"], o["name"], o["uid"]) for o in owners),
        version=meta.get("resourceVersion") or "",
    )


@dataclass(frozen=True)
class Resource(Generic[Spec, Status]):
    """One of our own resources, fully parsed."""

    kind: Kind
    meta: Meta
    spec: Spec
    status: Status


Engine = Resource[LLMEngineSpec, LLMEngineStatus]
Deployment = Resource[LLMDeploymentSpec, LLMDeploymentStatus]


class InvalidResource(Exception):
    """The spec does not parse. Holds what is needed to say so in the status."""

    def __init__(self, kind: Kind, meta: Meta, status: StatusModel, problem: str) -> None:
        super().__init__(problem)
        self.kind, self.meta, self.status, self.problem = kind, meta, status, problem


def engine_of(raw: Raw) -> Engine:
    """Parse an LLMEngine. Raises InvalidResource."""
    return _resource_of(raw, ENGINE, LLMEngineSpec, LLMEngineStatus)


def deployment_of(raw: Raw) -> Deployment:
    """Parse an LLMDeployment. Raises InvalidResource."""
    return _resource_of(raw, DEPLOYMENT, LLMDeploymentSpec, LLMDeploymentStatus)


def _resource_of(
    raw: Raw, kind: Kind, spec: type[Spec], status: type[Status]
) -> Resource[Spec, Status]:
    meta, parsed = meta_of(raw), _status_of(raw, status)
    try:
        return Resource(kind, meta, spec.model_validate(raw.get("spec") or {}), parsed)
    except ValidationError as error:
        raise InvalidResource(kind, meta, parsed, wrong_fields(error)) from None


def _status_of(raw: Raw, status: type[Status]) -> Status:
    """The recorded status; one that cannot be read counts as absent and is written anew."""
    try:
        return status.model_validate(raw.get("status") or {})
    except ValidationError:
        return status()


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim."""

    name: str
    uid: str
    capacity: int | None = None
    """Bytes, once a volume is bound."""


def claim_of(raw: Raw) -> Claim:
    """Read a PersistentVolumeClaim."""
    size = ((raw.get("status") or {}).get("capacity") or {}).get("storage")
    return Claim(
        name=raw["metadata"]["name"],
        uid=raw["metadata"].get("uid") or "",
        capacity=int(parse_quantity(size)) if size is not None else None,
    )


@dataclass(frozen=True)
class Job:
    """A Job of the builder's image."""

    meta: Meta
    created: str
    suspended: bool
    """It waits for its turn: no pod of it runs."""
    complete: bool
    failed: str | None
    """Reason of the Failed condition, such as PodFailurePolicy."""
    finished_at: datetime | None
    failures: int

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, good or bad."""
        return self.complete or self.failed is not None

    @property
    def component(self) -> str:
        """What it is for: build, resolve or collect."""
        return self.meta.labels.get(COMPONENT_LABEL, "")


def job_of(raw: Raw) -> Job:
    """Read a Job."""
    status = raw.get("status") or {}
    ended = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    end = ended.get("Complete") or ended.get("Failed")
    return Job(
        meta=meta_of(raw),
        created=raw["metadata"].get("creationTimestamp") or "",
        suspended=bool((raw.get("spec") or {}).get("suspend")),
        complete="Complete" in ended,
        failed=(ended["Failed"].get("reason") or "Failed") if "Failed" in ended else None,
        finished_at=_time(end.get("lastTransitionTime")) if end else None,
        failures=status.get("failed") or 0,
    )


@dataclass(frozen=True)
class Termination:
    """How a container ended."""

    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True)
class Pod:
    """A pod with one container that matters, or an init step before it."""

    meta: Meta
    created: str
    running: bool
    ready: bool
    image: str
    unscheduled: str | None
    """Why the scheduler found no node; None once it did or before it looked."""
    waiting: tuple[str, str] | None
    """Reason and message of a container that does not start."""
    termination: Termination | None
    """The container's end, or its latest one where it was restarted."""
    ip: str | None = None
    restarts: int = 0
    lost: tuple[str, str] | None = None
    """Reason and message of what ended the pod as a whole, such as an eviction: it never runs again."""

    @property
    def job_name(self) -> str | None:
        """The Job that the pod belongs to."""
        return self.meta.labels.get(JOB_NAME_LABEL)


def pod_of(raw: Raw) -> Pod:
    """Read a pod."""
    status = raw.get("status") or {}
    container = _current(raw)
    state = container.get("state") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    waiting = state.get("waiting") or {}
    return Pod(
        meta=meta_of(raw),
        created=raw["metadata"].get("creationTimestamp") or "",
        running="running" in state,
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        image=container.get("image") or next((c.get("image", "") for c in _containers(raw)), ""),
        unscheduled=_unscheduled(conditions.get("PodScheduled") or {}),
        waiting=(waiting["reason"], waiting.get("message") or "") if "reason" in waiting else None,
        termination=_termination(state, container.get("lastState") or {}),
        ip=status.get("podIP") or None,
        restarts=container.get("restartCount") or 0,
        lost=_lost(status),
    )


def _current(raw: Raw) -> Mapping[str, Any]:
    """The container that the pod waits for: the init step that has not ended well, else the first
    of its spec. The kubelet tells of containers by their names' order, sidecars among them.
    """
    status = raw.get("status") or {}
    sidecars = {step["name"] for step in _sidecars(raw)}
    for step in status.get("initContainerStatuses") or ():
        ended = (step.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode") != 0 and step.get("name") not in sidecars:
            return dict(step)
    told = status.get("containerStatuses") or ()
    first = next((c.get("name") for c in _containers(raw)), None)
    return dict(next((c for c in told if c.get("name") == first), next(iter(told), {})))


def _sidecars(raw: Raw) -> list[Mapping[str, Any]]:
    """Init containers that go on running beside the others."""
    steps = (raw.get("spec") or {}).get("initContainers") or ()
    return [step for step in steps if step.get("restartPolicy") == "Always"]


def _containers(raw: Raw) -> list[Mapping[str, Any]]:
    return (raw.get("spec") or {}).get("containers") or []


def _unscheduled(condition: Mapping[str, Any]) -> str | None:
    if condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
        return condition.get("message") or "no node fits"
    return None


def _lost(status: Mapping[str, Any]) -> tuple[str, str] | None:
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    return status["reason"], status.get("message") or ""


def _termination(state: Mapping[str, Any], last: Mapping[str, Any]) -> Termination | None:
    ended = state.get("terminated") or last.get("terminated")
    if not ended:
        return None
    return Termination(
        exit_code=ended.get("exitCode", 0),
        reason=ended.get("reason") or "",
        message=(ended.get("message") or "").strip(),
    )


@dataclass(frozen=True)
class Workload:
    """How far the workload of one revision has come. Its unit is the replica."""

    meta: Meta
    current: bool
    """Its controller has seen the newest spec."""
    wanted: int
    """`spec.replicas`."""
    replicas: int
    """Those that exist."""
    updated: int
    """Those of them that are of the newest template."""
    ready: int
    available: int
    """Ready for as long as counts."""
    drops_idle_first: bool = True
    """Whether scaling down takes away those first that are not ready."""
    refused: str | None = None
    """What the API server says where it refuses its pods."""

    @property
    def is_settled(self) -> bool:
        """Whether its controller has seen the newest spec, and every replica is of it."""
        return self.current and self.updated >= self.replicas

    @property
    def is_empty(self) -> bool:
        """Whether no replica is wanted and none is left."""
        return self.current and self.wanted == 0 and self.replicas == 0


def workload_of(raw: Raw) -> Workload:
    """Read a built-in Deployment."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    wanted = spec.get("replicas")
    return Workload(
        meta=meta_of(raw),
        current=(status.get("observedGeneration") or 0) >= meta_of(raw).generation,
        wanted=1 if wanted is None else wanted,
        replicas=status.get("replicas") or 0,
        updated=status.get("updatedReplicas") or 0,
        ready=status.get("readyReplicas") or 0,
        available=status.get("availableReplicas") or 0,
        refused=_refusal(status),
    )


def _refusal(status: Mapping[str, Any]) -> str | None:
    told = (c for c in status.get("conditions") or () if c.get("type") == REFUSAL)
    return next((c.get("message") or "" for c in told if c.get("status") == "True"), None)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
