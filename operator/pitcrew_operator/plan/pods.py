"""What keeps a pod from running, said so that a user can act."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from pitcrew_operator import reasons
from pitcrew_operator.plan.conditions import Situation, reconciling
from pitcrew_operator.views import Job, Pod

_IMAGE_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
_CONFIG_REASONS: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)
_MISSING_CLAIM: Final = re.compile(r'persistentvolumeclaim "([^"]+)" not found')
_PATIENCE: Final = timedelta(minutes=2)
_REPORT: Final = re.compile(r"^([A-Z][A-Za-z0-9]{1,62}): (.+)$", re.DOTALL)


def newest(pods: Iterable[Pod]) -> list[Pod]:
    """Pods that are here to stay, the youngest first."""
    return sorted(
        (pod for pod in pods if not pod.meta.deleting),
        key=lambda pod: (pod.created, pod.meta.name),
        reverse=True,
    )


def why_not_running(pod: Pod, store: str | None) -> Situation | None:
    """Why a pod does not start; None where it does or merely takes its time.

    `store` is the claim that holds engines, if one does: its absence has another remedy than the
    source's.
    """
    if pod.unscheduled is not None:
        return _unscheduled(pod, pod.unscheduled, store)
    if pod.waiting is None:
        return None
    reason, message = pod.waiting
    if reason in _IMAGE_REASONS:
        return reconciling(
            reasons.IMAGE_PULL_FAILED,
            f"the node cannot pull image {pod.image} ({reason}: {message or 'no details'}); "
            "check the name and tag, or name a pull secret in imagePullSecrets",
        )
    if reason in _CONFIG_REASONS:
        return reconciling(
            reasons.POD_MISCONFIGURED,
            f"pod {pod.meta.name} cannot start ({reason}: {message or 'no details'}); create the "
            "Secret or correct the field that it names",
        )
    return None


def _unscheduled(pod: Pod, message: str, store: str | None) -> Situation:
    missing = _MISSING_CLAIM.search(message)
    if missing:
        claim, where = missing[1], pod.meta.namespace
        reason = reasons.STORE_NOT_FOUND if claim == store else reasons.SOURCE_VOLUME_NOT_FOUND
        return reconciling(
            reason, f"PersistentVolumeClaim {claim} does not exist in namespace {where}; create it"
        )
    if "unbound" in message and "PersistentVolumeClaim" in message:
        return reconciling(
            reasons.WAITING_FOR_VOLUME,
            f"a volume is not bound yet ({message}); check that the claim's StorageClass exists "
            "and can provision it",
        )
    return reconciling(
        reasons.UNSCHEDULABLE,
        f"no node can run pod {pod.meta.name}: {message}; lower its resource requests, correct "
        "nodeSelector or tolerations, or add a node",
    )


def was_lost(pod: Pod) -> Situation | None:
    """What ended the pod as a whole: an eviction, or a node that would not take it."""
    if pod.lost is None:
        return None
    reason, message = pod.lost
    text = f"pod {pod.meta.name} was ended from outside ({reason}: {message or 'no details'})"
    return reconciling(
        reasons.POD_LOST,
        f"{text}; another takes its place; if that happens again, raise its requests or see to its node",
    )


def refused(place: str, message: str) -> Situation:
    """The API server takes no pods of a workload or Job. `place` names the fields of its pods."""
    return reconciling(
        reasons.PODS_REFUSED,
        f"no pod can be created: {message}; raise the quota of the namespace, or create or correct what "
        f"{place} names (PriorityClass, ServiceAccount, resources)",
    )


def never_came(job: Job, now: datetime, place: str) -> Situation | None:
    """A Job without a pod, long after it was made: nothing but its Events tells why."""
    if not job.created or now - datetime.fromisoformat(job.created) < _PATIENCE:
        return None
    meta = job.meta
    command = f"kubectl describe job --namespace {meta.namespace} {meta.name}"
    return refused(place, f"Job {meta.name} still has none, and {command} tells why")


def last_report(pods: Sequence[Pod]) -> tuple[str, str, bool] | None:
    """Reason, message and finality of the youngest failing pod of a deployment.

    A runtime that cannot start writes `<Reason>: <message>` and exits with 2: starting it again
    changes nothing. Every other end is worth the restart that the kubelet gives it.
    """
    for pod in pods:
        end = pod.termination
        if pod.ready or end is None or end.exit_code == 0:
            continue
        if end.reason == "OOMKilled":
            return reasons.OUT_OF_MEMORY, _OUT_OF_MEMORY.format(pod=pod.meta.name), False
        told = _REPORT.match(end.message)
        reason, message = (told[1], told[2]) if told else (reasons.POD_FAILING, _exit_text(pod))
        return reason, message, bool(told) and end.exit_code == 2
    return None


_OUT_OF_MEMORY: Final = (
    "pod {pod} was killed for using more memory than its limit; raise "
    "spec.runtime.resources.limits.memory or lower spec.runtime.kvMemory"
)


def _exit_text(pod: Pod) -> str:
    assert pod.termination is not None
    return (
        f"pod {pod.meta.name} ended with exit code {pod.termination.exit_code}; see kubectl logs "
        f"--namespace {pod.meta.namespace} --previous {pod.meta.name}"
    )
