"""Replicas of several pods each, kept by the real LeaderWorkerSet controller."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.product import (
    MODEL,
    Tool,
    apply,
    deployment,
    engine,
    pods,
    ready,
    service,
    stalled,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("pitcrew")]


@pytest.fixture(scope="module")
def space(kubectl: Tool, cluster: Cluster) -> Iterator[str]:
    name = "e2e-groups"
    kubectl("create", "namespace", name)
    cluster.volume("models", MODEL.parent, name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def split(space: str, kubectl: Tool, eventually: Tool) -> str:
    apply(kubectl, space, engine("split", "models", MODEL.name, parallelism={"tensor": 2}))
    eventually(lambda: ready(kubectl, space, "llmengine", "split"), seconds=240)
    return "split"


def without_groups(kubectl: Tool, helm: Tool) -> None:
    """An earlier run on the same cluster may have left the controller."""
    helm("uninstall", "lws", "--namespace", "lws-system", "--ignore-not-found")
    crd = "leaderworkersets.leaderworkerset.x-k8s.io"
    kubectl("delete", "crd", crd, "--ignore-not-found", "--timeout=60s")


@pytest.fixture(scope="module")
def group(space: str, split: str, kubectl: Tool, helm: Tool, eventually: Tool) -> str:
    """Asked for before the cluster knows groups: that is told, and their coming is enough."""
    without_groups(kubectl, helm)
    apply(kubectl, space, deployment("group", split, worldSize=2, ranksPerPod=1))
    found = eventually(lambda: stalled(kubectl, space, "llmdeployment", "group"), seconds=60)
    assert found["reason"] == "LeaderWorkerSetMissing"
    assert "install the LeaderWorkerSet controller" in found["message"]
    devcluster("addon", "lws")
    label = "pitcrew.dev/deployment=group"

    def made() -> Any:  # noqa: ANN401 (JSON)
        sets = kubectl("-n", space, "get", "leaderworkersets", "-l", label, "-o", "json")
        return sets["items"]

    (created,) = eventually(made, seconds=90)
    assert created["spec"]["leaderWorkerTemplate"]["size"] == 2
    return "group"


def place(pod: dict[str, Any]) -> dict[str, str]:
    """What the controller told a pod of its place."""
    entries = pod["spec"]["containers"][0]["env"]
    return {e["name"]: e["value"] for e in entries if e["name"].startswith("LWS_")}


def test_each_pod_of_a_group_knows_its_place(
    group: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    (leader,) = eventually(lambda: list(pods(kubectl, space, group).values()), seconds=60)
    (worker,) = eventually(
        lambda: list(pods(kubectl, space, group, "worker-of").values()), seconds=60
    )
    name = leader["metadata"]["name"]
    assert place(leader)["LWS_WORKER_INDEX"] == "0"
    assert place(worker)["LWS_WORKER_INDEX"] == "1"
    for pod in (leader, worker):
        assert place(pod)["LWS_GROUP_SIZE"] == "2"
        assert place(pod)["LWS_LEADER_ADDRESS"].startswith(f"{name}.")
        words = pod["spec"]["containers"][0]["args"]
        assert words[words.index("--ranks-per-pod") + 1] == "1"


def test_a_group_serves_and_falls_and_rises_as_one(
    group: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    eventually(lambda: ready(kubectl, space, "llmdeployment", group), seconds=240)

    def ask() -> str:
        with (
            service(space, group) as url,
            OpenAI(base_url=f"{url}/v1", api_key="unused", timeout=60) as client,
        ):
            model = client.models.list().data[0].id
            reply = client.completions.create(
                model=model, prompt="And the king said", max_tokens=8, temperature=0
            )
            return reply.choices[0].text

    answer = ask()
    assert answer
    (before,) = pods(kubectl, space, group).values()
    (worker,) = pods(kubectl, space, group, "worker-of")
    kubectl("-n", space, "delete", "pod", worker, "--grace-period=0", "--force")

    def anew() -> bool:
        leaders = pods(kubectl, space, group).values()
        return bool(leaders) and all(
            leader["metadata"]["uid"] != before["metadata"]["uid"] for leader in leaders
        )

    eventually(anew, seconds=120)
    eventually(lambda: ready(kubectl, space, "llmdeployment", group), seconds=240)
    assert ask() == answer
