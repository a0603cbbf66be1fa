"""A client that never stops asking, while everything under it is replaced: on the real cluster."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.load import Load
from tests.e2e.product import (
    Tool,
    asked,
    condition,
    evict,
    fetched,
    patch,
    pods,
    ready,
    served,
    stalled,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
REQUESTS = 5000
NAME = "chat"
GOLDEN = {"prompts": ["In the beginning God", "And the king said"], "maxTokens": 8}
PATIENCE = 300
"""Seconds for a pod to serve: the client leaves little of a small machine."""
ROLLOUT: dict[str, Any] = {
    "progressDeadlineSeconds": PATIENCE,
    "canary": {
        "steps": [{"replicas": 1, "holdSeconds": 3}],
        "analysis": {"minRequests": 20, "golden": GOLDEN},
    },
}


@pytest.fixture(scope="module")
def space(cluster: Cluster, pitcrew: None, kubectl: Tool) -> Iterator[str]:
    """Two replicas of the sample engine."""
    with served(cluster, kubectl, NAME, "e2e-rollouts", rollout=ROLLOUT) as name:
        yield name


@pytest.fixture(scope="module")
def client(space: str, kubectl: Tool, eventually: Tool) -> Iterator[Load]:
    with asked(kubectl, eventually, space, NAME, PATIENCE) as client:
        yield client


def found(kubectl: Tool, space: str) -> dict[str, Any]:
    return fetched(kubectl, space, "llmdeployment", NAME)


def test_ready_means_that_an_answer_came_through_the_service(
    client: Load, space: str, kubectl: Tool
) -> None:
    rollout = found(kubectl, space)["status"]["rollout"]
    assert rollout["phase"] == "Complete"
    assert rollout["answered"] == rollout["stable"] == rollout["revision"]


def test_a_new_engine_takes_over_and_no_request_fails(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    before = found(kubectl, space)["status"]["engine"]["id"]
    patch(kubectl, space, "llmengine", "tiny", shapes={"maxBatchSize": 8})

    def replaced() -> bool:
        status = found(kubectl, space)["status"]
        return bool(status["engine"]["id"] != before and status["rollout"]["phase"] == "Complete")

    eventually(replaced, seconds=PATIENCE, every=1)
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE)
    status = found(kubectl, space)["status"]
    assert status["previousEngine"]["id"] == before
    assert {
        p["metadata"]["labels"]["pitcrew.dev/revision"] for p in pods(kubectl, space, NAME).values()
    } == {status["rollout"]["stable"]}
    assert client.failed == []


def test_an_image_that_is_not_there_is_rolled_back_by_itself(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    known = {p["metadata"]["uid"] for p in pods(kubectl, space, NAME).values()}
    good = found(kubectl, space)["status"]["rollout"]["stable"]
    patch(
        *(kubectl, space, "llmdeployment", NAME),
        rollout={"progressDeadlineSeconds": 40},
        runtime={"image": "pitcrew/runtime:absent"},
    )

    def told() -> dict[str, Any]:
        return condition(found(kubectl, space), "Stalled")

    eventually(lambda: told().get("reason") == "RolledBack", seconds=PATIENCE, every=0.5)
    assert "ImagePullFailed" in told()["message"]
    rollout = found(kubectl, space)["status"]["rollout"]
    assert (rollout["phase"], rollout["stable"]) == ("RolledBack", good)
    assert rollout["failed"]["reason"] == "ImagePullFailed"
    assert {p["metadata"]["uid"] for p in pods(kubectl, space, NAME).values()} <= known
    patch(
        *(kubectl, space, "llmdeployment", NAME),
        rollout={"progressDeadlineSeconds": PATIENCE},
        runtime={"image": None},
    )
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE)
    assert client.failed == []


def test_scaling_goes_on_while_a_rollout_is_paused(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    patch(kubectl, space, "llmdeployment", NAME, rollout={"paused": True})
    patch(kubectl, space, "llmdeployment", NAME, runtime={"drainSeconds": 31})
    kubectl("-n", space, "scale", "llmdeployment", NAME, "--replicas=3")

    def scaled() -> bool:
        status = found(kubectl, space)["status"]
        return bool(status["rollout"]["phase"] == "Paused" and status["readyReplicas"] == 3)

    eventually(scaled, seconds=PATIENCE, every=0.5)
    assert condition(found(kubectl, space), "Reconciling")["reason"] == "RolloutPaused"
    kubectl("-n", space, "scale", "llmdeployment", NAME, "--replicas=2")
    patch(kubectl, space, "llmdeployment", NAME, rollout={"paused": False})
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE)
    assert client.failed == []


def test_a_canary_that_is_judged_worse_goes_back(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    """No revision can be a thousand times as fast as the one before it."""
    bound = {"maxMeanRatio": "0.001", "floorMilliseconds": 0}
    canary = {**ROLLOUT["canary"], "analysis": {"minRequests": 20, "timeToFirstToken": bound}}
    patch(
        *(kubectl, space, "llmdeployment", NAME),
        rollout={"canary": canary},
        runtime={"drainSeconds": 32},
    )
    told = eventually(
        lambda: stalled(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE, every=1
    )
    assert told["reason"] == "RolledBack"
    assert "timeToFirstToken.maxMeanRatio is 0.001" in told["message"]
    patch(kubectl, space, "llmdeployment", NAME, runtime={"drainSeconds": 31})
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE)
    assert client.failed == []


def test_in_place_nothing_is_started_before_something_has_ended(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    patch(
        *(kubectl, space, "llmdeployment", NAME),
        rollout={"strategy": "InPlace", "canary": None},
        runtime={"drainSeconds": 30},
    )
    counts = set()

    def replaced() -> bool:
        counts.add(len(pods(kubectl, space, NAME)))
        return ready(kubectl, space, "llmdeployment", NAME)

    eventually(replaced, seconds=PATIENCE)
    assert max(counts) <= 2
    assert client.failed == []


def test_an_evicted_pod_is_replaced_and_no_request_fails(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    victim = next(iter(pods(kubectl, space, NAME)))
    assert evict(kubectl, space, victim) == ""

    def replaced() -> bool:
        left = pods(kubectl, space, NAME)
        return victim not in left and ready(kubectl, space, "llmdeployment", NAME)

    eventually(replaced, seconds=PATIENCE, every=0.5)
    assert client.failed == []


@pytest.fixture
def no_operator(kubectl: Tool, eventually: Tool) -> Iterator[Callable[[], None]]:
    """No operator runs until the returned function is called, or the test ends."""
    system = ("-n", "pitcrew-system")

    def back() -> None:
        kubectl(*system, "scale", "deployment", "pitcrew", "--replicas=1")
        kubectl(*system, "rollout", "status", "deployment", "pitcrew", "--timeout=120s")

    def is_gone() -> bool:
        return not kubectl(*system, "get", "pods", "-o", "name").strip()

    kubectl(*system, "scale", "deployment", "pitcrew", "--replicas=0")
    try:
        eventually(is_gone, seconds=60)
        yield back
    finally:
        back()


def serving(kubectl: Tool, space: str) -> set[str]:
    """UIDs of the pods that are ready."""
    return {
        pod["metadata"]["uid"]
        for pod in pods(kubectl, space, NAME).values()
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"]["conditions"])
    }


def test_pods_that_die_while_no_operator_runs_come_back_and_no_request_fails(
    client: Load,
    space: str,
    kubectl: Tool,
    eventually: Tool,
    no_operator: Callable[[], None],
) -> None:
    """One pod after the other, for PITCREW_ABSENCE_SECONDS; at least one."""
    over = time.monotonic() + float(os.environ.get("PITCREW_ABSENCE_SECONDS", "0"))
    deaths = 0
    while deaths == 0 or time.monotonic() < over:
        victim, pod = next(iter(pods(kubectl, space, NAME).items()))
        kubectl("-n", space, "delete", "pod", victim, "--wait=false")

        def again(gone: str = pod["metadata"]["uid"]) -> bool:
            left = serving(kubectl, space)
            return len(left) == 2 and gone not in left

        eventually(again, seconds=PATIENCE, every=0.5)
        deaths += 1
    kubectl("-n", space, "scale", "llmdeployment", NAME, "--replicas=3")
    kept, began = serving(kubectl, space), time.monotonic()
    no_operator()
    eventually(lambda: len(serving(kubectl, space)) == 3, seconds=PATIENCE, every=0.5)
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE, every=0.5)
    print(f"{deaths} pods died; {time.monotonic() - began:.0f} s from its return to Ready")
    assert kept < serving(kubectl, space), "what served without an operator is left alone"
    assert client.failed == []


def test_thousands_of_requests_were_answered_and_none_failed(
    client: Load, eventually: Tool
) -> None:
    eventually(lambda: client.answered >= REQUESTS or client.failed, seconds=PATIENCE, every=0.5)
    print(f"{client.answered} requests answered, {len(client.failed)} failed")
    assert client.failed == []
    assert client.answered >= REQUESTS
