"""What keeps N replicas of a revision running: one object of some kind, one for each revision.

A replica is what answers requests: a pod, or a group of pods where an engine needs several nodes.
Each kind of workload is one `WorkloadKind`; plans see `Workload`s and never ask which kind it is.
"""

from typing import Any, Protocol

from pitcrew_operator.kinds import Kind, Raw
from pitcrew_operator.manifests.pod_deployment import PodDeployment
from pitcrew_operator.manifests.pod_group import PodGroup
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.views import Workload


class WorkloadKind(Protocol):
    """How one kind of object runs a revision. Its `/spec/replicas` is the number of replicas."""

    @property
    def kind(self) -> Kind:
        """The kind of the object."""

    def manifest(self, revision: Revision, replicas: int) -> dict[str, Any]:
        """The object, named `revision.name`, stamped by `names.stamped`."""

    def read(self, raw: Raw) -> Workload:
        """How many replicas such an object has, and how many of them serve."""


_PODS, _GROUPS = PodDeployment(), PodGroup()
ALL: tuple[WorkloadKind, ...] = (_PODS, _GROUPS)
"""Every kind of workload that a revision may have."""


def kind_for(revision: Revision) -> WorkloadKind:
    """The kind that runs this revision."""
    return _PODS if revision.pods == 1 else _GROUPS


def read(raw: Raw) -> Workload:
    """Read a workload of any of the kinds. Raises KeyError for another object."""
    by_kind = {each.kind.kind: each for each in ALL}
    return by_kind[raw["kind"]].read(raw)
