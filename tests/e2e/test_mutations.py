"""Five hundred manifests with faults: refused at admission, or told of in a named condition."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.product import apply, condition, deployment, engine
from tests.property.operator.mutations import mutated
from tests.property.operator.test_mutations import FULL_DEPLOYMENT, FULL_ENGINE, REASONS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("pitcrew")]

SYSTEM = "pitcrew-system"
EACH = 250
# What is admitted names a volume or an engine that is not there, so that it starts no pod.
BASES = (
    engine("mutant", "absent", "tiny", **FULL_ENGINE),
    deployment("mutant", "absent", **FULL_DEPLOYMENT),
)


def restarts(kubectl: Callable[..., Any]) -> dict[str, int]:
    pods = kubectl("-n", SYSTEM, "get", "pods", "-o", "json")["items"]
    return {
        pod["metadata"]["name"]: sum(
            status["restartCount"] for status in pod["status"].get("containerStatuses", [])
        )
        for pod in pods
    }


@contextmanager
def api(cluster: Cluster) -> Iterator[httpx.Client]:
    """The API server without kubectl's own checks, which would refuse some before it could."""
    process = subprocess.Popen(
        ["kubectl", "proxy", "--port=0"],
        env={**os.environ, **cluster.env},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        with httpx.Client(base_url=f"http://{found[0]}", timeout=60) as client:
            yield client
    finally:
        process.terminate()
        process.communicate()


def create(client: httpx.Client, namespace: str, document: dict[str, Any]) -> int:
    """The status code of the attempt."""
    path = f"/apis/pitcrew.dev/v1alpha1/namespaces/{namespace}/{document['kind'].lower()}s"
    answer = client.post(path, json=document)
    return answer.status_code


def test_each_is_refused_or_told_of_and_nobody_else_waits(
    cluster: Cluster, kubectl: Callable[..., Any], namespace: str, eventually: Callable[..., Any]
) -> None:
    before = restarts(kubectl)
    items = [mutated(base, seed) for base in BASES for seed in range(EACH)]
    with api(cluster) as client:
        answers = [create(client, namespace, item) for item in items]
    assert {*answers} == {201, 422}  # some of both, or the mutations prove nothing

    def admitted() -> list[dict[str, Any]]:
        found = kubectl("-n", namespace, "get", "llmengines,llmdeployments", "-o", "json")
        items: list[dict[str, Any]] = found["items"]
        return items

    assert len(admitted()) == answers.count(201)

    def untold() -> list[str]:
        return [
            f"{o['kind']}/{o['metadata']['name']}"
            for o in admitted()
            if condition(o, "Ready").get("reason") not in REASONS
        ]

    eventually(lambda: not untold(), seconds=120, every=2)
    apply(kubectl, namespace, engine("good", "absent", "tiny"))

    def good() -> bool:
        found = kubectl("-n", namespace, "get", "llmengine", "good", "-o", "json")
        return bool(condition(found, "Ready").get("reason") == "SourceVolumeNotFound")

    eventually(good, seconds=30)
    assert restarts(kubectl) == before
