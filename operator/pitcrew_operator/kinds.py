"""The kinds of objects that the operator reads or writes, and where the API serves them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from pitcrew_operator.api.common import API_VERSION

Raw = Mapping[str, Any]
"""An object as JSON, exactly as the API server sent it. Never changed in place."""

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "pitcrew"


def at(raw: Any, *way: str) -> Any:  # noqa: ANN401 (any JSON value)
    """What stands at the end of the way; None where the way ends before.

    Our own resources are read so before they are parsed: an API server may hold any shape of them
    from the days of an older schema.
    """
    for key in way:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


@dataclass(frozen=True)
class Kind:
    """A kind of object: its API version, names, and which objects of it concern us."""

    api_version: str
    kind: str
    plural: str
    selector: str | None = None
    namespaced: bool = True

    @property
    def group(self) -> str:
        """API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """Version inside the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """URL path of the collection, the object or its subresource."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        scope = ["namespaces", quote(namespace, safe="")] if namespace else []
        parts = [root, *scope, self.plural, quote(name, safe=""), subresource]
        return "/".join(part for part in parts if part)


_OURS: Final = f"{MANAGED_BY}={MANAGER}"

ENGINE: Final = Kind(API_VERSION, "LLMEngine", "llmengines")
DEPLOYMENT: Final = Kind(API_VERSION, "LLMDeployment", "llmdeployments")
JOB: Final = Kind("batch/v1", "Job", "jobs", _OURS)
POD: Final = Kind("v1", "Pod", "pods", _OURS)
WORKLOAD: Final = Kind("apps/v1", "Deployment", "deployments", _OURS)
SERVICE: Final = Kind("v1", "Service", "services", _OURS)
CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NODE: Final = Kind("v1", "Node", "nodes", namespaced=False)
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
"""Read one by one, where an LLMEngine names it; never watched."""
SECRET: Final = Kind("v1", "Secret", "secrets")
"""Read one by one, where golden prompts name it and a Role allows it; never watched or held."""
DISRUPTION_BUDGET: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", _OURS)
LEADER_WORKER_SET: Final = Kind(
    "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets", _OURS
)
INFERENCE_POOL: Final = Kind(
    "inference.networking.k8s.io/v1", "InferencePool", "inferencepools", _OURS
)
EVENT: Final = Kind("events.k8s.io/v1", "Event", "events")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")

OWNERS: Final = (ENGINE, DEPLOYMENT)
CHILDREN: Final = (CLAIM, JOB, WORKLOAD, SERVICE, DISRUPTION_BUDGET, POD)
WATCHED: Final = (*OWNERS, *CHILDREN)
"""What is watched in any case; nodes are too, unless the settings say otherwise."""

OPTIONAL: Final = (LEADER_WORKER_SET, INFERENCE_POOL)
"""Kinds of others, which a cluster serves or not; watched once it does."""

_BY_NAME: Final = {
    (kind.api_version, kind.kind): kind for kind in (*WATCHED, *OPTIONAL, NODE, EVENT)
}


def kind_of(manifest: Raw) -> Kind:
    """The kind of a manifest. Raises KeyError for one that the operator does not handle."""
    return _BY_NAME[manifest["apiVersion"], manifest["kind"]]
