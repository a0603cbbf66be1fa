"""The ready replicas of a deployment by their pods: one pod each, or the pods of a group."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pitcrew_operator.ask.dcgm import PodName
from pitcrew_operator.kinds import Raw
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL, url_host
from pitcrew_operator.manifests.serving_pod import PORT
from pitcrew_operator.views import Pod, pod_of

_SET_LABEL: Final = "leaderworkerset.sigs.k8s.io/name"
_GROUP_LABEL: Final = "leaderworkerset.sigs.k8s.io/group-index"


@dataclass(frozen=True)
class Member:
    """One replica that serves."""

    uid: str
    """Of the pod that answers requests."""
    address: str
    """Of that pod, such as http://10.0.0.3:8000."""
    pods: tuple[PodName, ...]
    """All that hold GPUs of it."""


def members(raws: Iterable[Raw]) -> tuple[Member, ...]:
    """Those whose answering pod is ready, in the order of their names."""
    pods = sorted(map(pod_of, raws), key=lambda pod: pod.meta.name)
    leaders = (pod for pod in pods if DEPLOYMENT_LABEL in pod.meta.labels)
    ready = (pod for pod in leaders if pod.ready and pod.ip and not pod.meta.deleting)
    return tuple(
        Member(
            leader.meta.uid,
            f"http://{url_host(leader.ip or '')}:{PORT}",
            tuple(PodName(pod.meta.namespace, pod.meta.name) for pod in _group(leader, pods)),
        )
        for leader in ready
    )


def _group(leader: Pod, pods: Iterable[Pod]) -> list[Pod]:
    """The leader and the others of its group."""
    key = _key(leader)
    if key is None:
        return [leader]
    return [pod for pod in pods if _key(pod) == key and not pod.meta.deleting]


def _key(pod: Pod) -> tuple[str, str] | None:
    labels = pod.meta.labels
    return (labels[_SET_LABEL], labels[_GROUP_LABEL]) if _GROUP_LABEL in labels else None
