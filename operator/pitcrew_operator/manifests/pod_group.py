"""Replicas of several pods each, kept by a LeaderWorkerSet.

The first pod of a group answers requests and holds the first ranks, the others hold the rest. A
group lives and dies as one: ranks that lost a neighbour cannot go on, so whenever a container of a
group restarts or a pod of it goes, the controller makes the whole group anew.
"""

from typing import Any

from pitcrew_operator.kinds import LEADER_WORKER_SET, Kind, Raw
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.views import Workload, meta_of


class PodGroup:
    """See `workload.WorkloadKind`."""

    kind: Kind = LEADER_WORKER_SET

    def manifest(self, revision: Revision, replicas: int) -> dict[str, Any]:
        """The LeaderWorkerSet. Its controller tells each pod its place and its leader's address."""
        spec = {
            "replicas": replicas,
            # The leader is ready only with its workers: they must not wait for that.
            "startupPolicy": "LeaderCreated",
            "networkConfig": {"subdomainPolicy": "Shared"},
            "leaderWorkerTemplate": {
                "size": revision.pods,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": revision.template,
                "workerTemplate": revision.worker_template,
            },
        }
        return names.manifest(self.kind, revision.metadata, spec)

    def read(self, raw: Raw) -> Workload:
        """From the status that the controller writes. A group counts as ready when all of it is."""
        spec, status, meta = raw.get("spec") or {}, raw.get("status") or {}, meta_of(raw)
        wanted = spec.get("replicas")
        ready = status.get("readyReplicas") or 0
        return Workload(
            meta=meta,
            current=(status.get("observedGeneration") or 0) >= meta.generation,
            wanted=1 if wanted is None else wanted,
            replicas=status.get("replicas") or 0,
            updated=status.get("updatedReplicas") or 0,
            ready=ready,
            available=ready,
            drops_idle_first=False,  # the highest numbers go
        )
