"""Replicas of several pods each, kept by the real LeaderWorkerSet controller."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.certificates import Authority
from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.load import Load
from tests.e2e.product import (
    MODEL,
    Tool,
    apply,
    asked,
    deployment,
    engine,
    evict,
    fetched,
    patch,
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
def group(
    space: str,
    split: str,
    kubectl: Tool,
    helm: Tool,
    eventually: Tool,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Asked for before the cluster knows groups: that is told, and their coming is enough.

    Its ranks speak TLS, with certificates of an authority of their own.
    """
    without_groups(kubectl, helm)
    folder = Authority("ranks").write(tmp_path_factory.mktemp("ranks"))
    kubectl("-n", space, "create", "secret", "generic", "ranks", f"--from-file={folder}")
    asked = deployment("group", split, worldSize=2, ranksPerPod=1)
    asked["spec"]["runtime"]["rankTlsSecretRef"] = {"name": "ranks"}
    apply(kubectl, space, asked)
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


PATIENCE = 300
"""Seconds for a group to serve: the client leaves little of a small machine."""


@pytest.fixture(scope="module")
def client(group: str, space: str, kubectl: Tool, eventually: Tool) -> Iterator[Load]:
    """A client of two groups that never stops asking."""
    rollout = {"progressDeadlineSeconds": PATIENCE}
    patch(kubectl, space, "llmdeployment", group, replicas=2, rollout=rollout)
    with asked(kubectl, eventually, space, group, PATIENCE, clients=4) as client:
        yield client


def test_a_new_engine_takes_over_group_by_group_and_no_request_fails(
    client: Load, group: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    def served() -> str:
        document = fetched(kubectl, space, "llmdeployment", group)
        return str(document["status"]["engine"]["id"])

    before = served()
    patch(kubectl, space, "llmengine", "split", shapes={"maxBatchSize": 8})
    eventually(lambda: served() != before, seconds=PATIENCE, every=1)
    eventually(lambda: ready(kubectl, space, "llmdeployment", group), seconds=PATIENCE, every=1)
    left = {**pods(kubectl, space, group), **pods(kubectl, space, group, "worker-of")}
    assert len(left) == 4
    assert len({pod["metadata"]["labels"]["pitcrew.dev/revision"] for pod in left.values()}) == 1
    sets = kubectl("-n", space, "get", "leaderworkersets", "-o", "json")["items"]
    assert sum(each["spec"]["replicas"] for each in sets) == 2
    assert client.failed == []


def test_a_drain_takes_one_group_at_a_time_and_no_request_fails(
    client: Load, group: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    """A group falls with any of its pods, so the budget holds back all pods of the other one."""

    def allowed() -> int:
        budget = kubectl("-n", space, "get", "pdb", group, "-o", "json")
        return int(budget["status"].get("disruptionsAllowed", 0))

    eventually(lambda: allowed() == 1, seconds=PATIENCE)
    first, second = sorted(pods(kubectl, space, group))
    worker = f"{first}-1"
    known = pods(kubectl, space, group)[first]["metadata"]["uid"]
    assert evict(kubectl, space, worker) == ""
    for other in (second, f"{second}-1"):
        assert "disruption budget" in evict(kubectl, space, other)

    def anew() -> bool:
        leader = pods(kubectl, space, group).get(first)
        is_new = leader is not None and leader["metadata"]["uid"] != known
        return is_new and ready(kubectl, space, "llmdeployment", group)

    eventually(anew, seconds=PATIENCE, every=0.5)
    assert second in pods(kubectl, space, group)
    assert client.answered > 0
    assert client.failed == []
