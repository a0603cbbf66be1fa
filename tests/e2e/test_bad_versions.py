"""Versions that cannot serve, while a client never stops asking: they are given up by themselves.

The first version serves. The next one is built beside it and harmed where it lies, in the store, as
a disk or a wrong build would; or the pods around it are.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.load import Load
from tests.e2e.product import (
    Tool,
    asked,
    condition,
    fetched,
    patch,
    pods,
    ready,
    served,
    stalled,
    stored,
    weights,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("pitcrew")]
NAME = "chat"
PATIENCE = 300


@pytest.fixture(scope="module")
def space(cluster: Cluster, pitcrew: None, kubectl: Tool) -> Iterator[str]:
    """Two replicas of the sample engine."""
    rollout = {"progressDeadlineSeconds": PATIENCE}
    with served(cluster, kubectl, NAME, "e2e-bad-versions", rollout=rollout) as name:
        yield name


@pytest.fixture(scope="module")
def client(space: str, kubectl: Tool, eventually: Tool) -> Iterator[Load]:
    with asked(kubectl, eventually, space, NAME, PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def second(client: Load, space: str, kubectl: Tool, eventually: Tool) -> str:
    """The next version: proven, and not served yet."""
    patch(kubectl, space, "llmdeployment", NAME, rollout={"paused": True})
    first = stored(kubectl, space, "tiny")
    patch(kubectl, space, "llmengine", "tiny", shapes={"maxBatchSize": 8})
    eventually(lambda: ready(kubectl, space, "llmengine", "tiny"), seconds=PATIENCE)
    assert stored(kubectl, space, "tiny") != first
    document = fetched(kubectl, space, "llmengine", "tiny")
    return str(document["status"]["engine"]["id"])


def found(kubectl: Tool, space: str) -> dict[str, Any]:
    return fetched(kubectl, space, "llmdeployment", NAME)


@contextmanager
def harmed(kubectl: Tool, space: str, how: str) -> Iterator[None]:
    """The newest engine, with a fault in it for as long as the block runs."""
    folder = stored(kubectl, space, "tiny")
    file = weights(folder) if how == "EngineCorrupt" else folder / "manifest.json"
    devcluster("exec", "--", "cp", "-p", str(file), f"{file}.good")
    if how == "EngineCorrupt":
        flip = f"printf XXXX | dd of={file} bs=1 seek=500000 conv=notrunc"
        devcluster("exec", "--", "sh", "-c", flip)
    else:
        manifest = json.loads(devcluster("exec", "--", "cat", str(file)))
        manifest["canary"]["continuation"][0] += 1
        devcluster("exec", "--", "tee", str(file), stdin=json.dumps(manifest))
    try:
        yield
    finally:
        devcluster("exec", "--", "mv", f"{file}.good", str(file))


@pytest.mark.parametrize("fault", ["EngineCorrupt", "CanaryMismatch"])
def test_a_version_that_cannot_serve_is_given_up_and_nobody_notices(
    fault: str, second: str, client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    known = pods(kubectl, space, NAME).keys()
    good = found(kubectl, space)["status"]["rollout"]["stable"]
    with harmed(kubectl, space, fault):
        patch(kubectl, space, "llmdeployment", NAME, rollout={"paused": False, "trigger": fault})

        def given_up() -> dict[str, Any]:
            status: dict[str, Any] = found(kubectl, space)["status"]
            rollout = status["rollout"]
            is_over = rollout["phase"] == "RolledBack" and rollout["failed"]["trigger"] == fault
            return status if is_over else {}

        status = eventually(given_up, seconds=PATIENCE, every=0.5)
    assert status["rollout"]["failed"]["reason"] == fault
    assert status["rollout"]["stable"] == good
    assert status["engine"]["id"] != second
    # The version came from outside: what was asked for serves, and what could not is told.
    document = found(kubectl, space)
    assert condition(document, "Ready")["reason"] == "RolledBack"
    assert condition(document, "Ready")["status"] == "True"
    told = condition(document, "UpToDate")
    assert (told["status"], told["reason"]) == ("False", "RolledBack")
    assert fault in told["message"]
    assert pods(kubectl, space, NAME).keys() == known
    assert client.failed == []


def test_the_same_version_serves_once_it_is_mended_and_triggered(
    second: str, client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    patch(kubectl, space, "llmdeployment", NAME, rollout={"paused": False, "trigger": "mended"})

    def serves() -> bool:
        is_second = found(kubectl, space)["status"]["engine"]["id"] == second
        return is_second and ready(kubectl, space, "llmdeployment", NAME)

    eventually(serves, seconds=PATIENCE, every=0.5)
    assert client.failed == []


def test_pods_that_crash_again_and_again_are_given_up(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    """A Python without its library ends at once, with no word from us."""
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE)
    known = pods(kubectl, space, NAME).keys()
    crash = {"name": "runtime", "env": [{"name": "PYTHONHOME", "value": "/nowhere"}]}
    template = {"spec": {"containers": [crash]}}
    patch(kubectl, space, "llmdeployment", NAME, runtime={"podTemplate": template})
    told = eventually(
        lambda: stalled(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE, every=0.5
    )
    assert told["reason"] == "RolledBack"
    assert re.search(
        r"PodFailing: pod chat-\S+ ended with exit code 1; see kubectl", told["message"]
    )
    assert pods(kubectl, space, NAME).keys() == known
    patch(kubectl, space, "llmdeployment", NAME, runtime={"podTemplate": None})
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=PATIENCE)
    assert client.failed == []


def test_a_world_size_that_is_not_the_engines_changes_no_pod(
    client: Load, space: str, kubectl: Tool, eventually: Tool
) -> None:
    known = pods(kubectl, space, NAME).keys()
    patch(kubectl, space, "llmdeployment", NAME, worldSize=2)
    told = eventually(lambda: stalled(kubectl, space, "llmdeployment", NAME), seconds=60)
    assert told["reason"] == "WorldSizeMismatch"
    assert "set spec.worldSize to 1 or leave it out" in told["message"]
    assert pods(kubectl, space, NAME).keys() == known
    patch(kubectl, space, "llmdeployment", NAME, worldSize=None)
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=60)
    assert client.failed == []


def test_each_failure_is_an_event_that_tells_why(client: Load, space: str, kubectl: Tool) -> None:
    selector = f"involvedObject.name={NAME},reason=RolledBack"
    events = kubectl("-n", space, "get", "events", "--field-selector", selector, "-o", "json")
    warned = " ".join(e["message"] for e in events["items"] if e["type"] == "Warning")
    for fault in ("EngineCorrupt", "CanaryMismatch", "PodFailing"):
        assert fault in warned
    assert client.answered > 0
    assert client.failed == []
