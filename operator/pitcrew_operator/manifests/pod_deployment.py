"""Replicas of one pod each, kept by a built-in Deployment.

The Deployment never rolls by itself: its template is that of one revision, and another revision has
a Deployment of its own.
"""

from typing import Any, Final

from pitcrew_operator.kinds import WORKLOAD, Kind, Raw
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.views import Workload, workload_of

# A pod that is ready for a moment only should not cost an old one its place.
_MIN_READY_SECONDS: Final = 1


class PodDeployment:
    """See `workload.WorkloadKind`."""

    kind: Kind = WORKLOAD

    def manifest(self, revision: Revision, replicas: int) -> dict[str, Any]:
        """The built-in Deployment."""
        spec = {
            "replicas": replicas,
            "minReadySeconds": _MIN_READY_SECONDS,
            "progressDeadlineSeconds": revision.startup_seconds + 120,
            "revisionHistoryLimit": 0,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "selector": {"matchLabels": revision.selector},
            "template": revision.template,
        }
        return names.manifest(self.kind, revision.metadata, spec)

    def read(self, raw: Raw) -> Workload:
        """From `spec.replicas` and the status that the Deployment controller writes."""
        return workload_of(raw)
