"""What is kept of an object: the parts that are read. Ten thousand of them fit into little memory.

It is applied as soon as an object has been parsed, and to one that is slim already it changes nothing.
Where two versions are the same but for their number, nothing that is read has changed: nobody has to
look.
"""

from collections.abc import Callable, Mapping
from typing import Final

from pitcrew_operator.kinds import CLAIM, JOB, LEADER_WORKER_SET, NODE, POD, WORKLOAD, Kind, Raw
from pitcrew_operator.views import REFUSAL

_ENDS: Final = ("Complete", "Failed")
_POD_CONDITIONS: Final = (("Ready", "True"), ("PodScheduled", "False"))
"""What conditions of pods tell: any other status of theirs means the same as none."""


def slim(kind: Kind, raw: Raw) -> Raw:
    """The object without who manages its fields, and without what is never read of its kind."""
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    slimmed = {**raw, "metadata": metadata}
    more = _SLIMMERS.get(kind)
    return more(slimmed) if more else slimmed


def is_same(known: Raw, newer: Raw) -> bool:
    """Whether two slim versions of an object differ in nothing that is read."""
    return _without_version(known) == _without_version(newer)


def _without_version(raw: Raw) -> Raw:
    metadata = {k: v for k, v in raw["metadata"].items() if k != "resourceVersion"}
    return {**raw, "metadata": metadata}


def _claim(raw: Raw) -> Raw:
    return {key: value for key, value in raw.items() if key != "spec"}


def _job(raw: Raw) -> Raw:
    status = raw.get("status") or {}
    ends = [c for c in status.get("conditions") or () if c.get("type") in _ENDS]
    return {
        **raw,
        "spec": {"suspend": bool((raw.get("spec") or {}).get("suspend"))},
        "status": {**_pick(status, "failed"), "conditions": ends},
    }


def _node(raw: Raw) -> Raw:
    metadata = {k: v for k, v in raw["metadata"].items() if k != "annotations"}
    return {"metadata": metadata, "spec": _pick(raw.get("spec") or {}, "unschedulable")}


def _pod(raw: Raw) -> Raw:
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    containers = [_pick(each, "name", "image") for each in spec.get("containers") or ()]
    steps = [_pick(s, "name", "restartPolicy") for s in spec.get("initContainers") or ()]
    conditions = status.get("conditions") or ()
    told = [c for c in conditions if (c.get("type"), c.get("status")) in _POD_CONDITIONS]
    lost = ("phase", "reason", "message") if status.get("phase") == "Failed" else ()
    kept = _pick(status, "podIP", "containerStatuses", "initContainerStatuses", *lost)
    return {
        **raw,
        "metadata": {k: v for k, v in raw["metadata"].items() if k != "finalizers"},
        "spec": {"containers": containers, "initContainers": [s for s in steps if len(s) > 1]},
        "status": {**kept, "conditions": told},
    }


def _workload(raw: Raw) -> Raw:
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    status = raw.get("status") or {}
    told = [c for c in status.get("conditions") or () if c.get("type") == REFUSAL]
    kept = {"conditions": told} if told else {}
    return {**raw, "status": _pick(status, "observedGeneration", *counts) | kept}


def _pick(document: Raw, *keys: str) -> dict[str, object]:
    return {key: document[key] for key in keys if key in document}


_SLIMMERS: Final[Mapping[Kind, Callable[[Raw], Raw]]] = {
    CLAIM: _claim,
    JOB: _job,
    LEADER_WORKER_SET: _workload,
    NODE: _node,
    POD: _pod,
    WORKLOAD: _workload,
}
