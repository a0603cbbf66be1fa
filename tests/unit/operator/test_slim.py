"""Slim objects read as whole ones do, and take a fraction of the room."""

import json
from collections.abc import Callable

import pytest

from pitcrew_operator.kinds import JOB, POD, WORKLOAD, Kind, Raw
from pitcrew_operator.slim import slim
from pitcrew_operator.views import job_of, pod_of, workload_of
from tests.unit.operator.factories import meta

MANAGED = [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {"f:phase": {}}}}]
SIDECAR = {"name": "proxy", "image": "p:1", "restartPolicy": "Always", "env": [{"name": "A"}]}
CONTAINER = {"name": "serve", "image": "r:1", "env": [{"name": "B", "value": "c" * 99}]}
STATE = {"running": {"startedAt": "2026-11-01T12:00:00Z"}}


def whole(**parts: object) -> Raw:
    metadata = meta("a", "u", resourceVersion="7", managedFields=MANAGED, labels={"a": "b"})
    return {"metadata": metadata, **parts}


POD_RAW = whole(
    spec={"containers": [CONTAINER], "initContainers": [SIDECAR], "volumes": [{"name": "v"}]},
    status={
        "podIP": "10.0.0.7",
        "conditions": [{"type": "Ready", "status": "True"}],
        "initContainerStatuses": [{"name": "proxy", "state": STATE, "image": "p:1"}],
        "containerStatuses": [{"name": "serve", "state": STATE, "image": "r:1", "restartCount": 2}],
    },
)
JOB_RAW = whole(
    spec={"suspend": True, "template": {"spec": {"containers": [CONTAINER]}}},
    status={"failed": 1, "conditions": [{"type": "Complete", "status": "True"}]},
)
WORKLOAD_RAW = whole(
    spec={"replicas": 2, "template": {"spec": {"containers": [CONTAINER]}}},
    status={
        "replicas": 2,
        "readyReplicas": 1,
        "conditions": [
            {"type": "Progressing", "status": "True"},
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
        ],
    },
)
LOST_RAW = whole(status={"phase": "Failed", "reason": "Evicted", "message": "low on memory"})


@pytest.mark.parametrize(
    ("kind", "raw", "read"),
    [
        (POD, POD_RAW, pod_of),
        (POD, LOST_RAW, pod_of),
        (JOB, JOB_RAW, job_of),
        (WORKLOAD, WORKLOAD_RAW, workload_of),
    ],
    ids=["pod", "lost", "job", "workload"],
)
def test_slim_object_reads_like_the_whole_one(
    kind: Kind, raw: Raw, read: Callable[[Raw], object]
) -> None:
    slimmed = slim(kind, raw)
    assert read(slimmed) == read(raw)
    assert slim(kind, slimmed) == slimmed
    assert len(json.dumps(slimmed)) < len(json.dumps(raw))
