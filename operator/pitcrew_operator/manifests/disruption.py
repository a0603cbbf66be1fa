"""The PodDisruptionBudget: how many replicas node drains leave standing."""

from typing import Any

from pitcrew_operator.kinds import DISRUPTION_BUDGET
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.child import child
from pitcrew_operator.views import Deployment


def disruption_budget(owner: Deployment, pods_per_replica: int = 1) -> dict[str, Any] | None:
    """The budget; None where it would hold nothing back, as with one replica.

    It counts pods that have to stay rather than pods that may go: a rollout holds more pods than
    replicas, and those in the making shall not keep a node from being drained. A replica of several
    pods falls with the first of them, so as many pods may go as replicas.
    """
    count = owner.spec.wanted_replicas
    taken = count - owner.spec.pod_disruption_budget.minimum(count)
    if taken == count:
        return None
    spec = {
        "minAvailable": count * pods_per_replica - taken,
        "selector": {"matchLabels": names.labels("runtime", owner.meta.name, {})},
        # A pod that serves nobody may go at any time.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return child(DISRUPTION_BUDGET, owner, spec)
