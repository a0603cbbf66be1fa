"""The shape of what serves: pods, disruption budget, Services, verification, groups of pods."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.product import MODEL, apply, deployment, engine, ready, service, stalled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("pitcrew")]

Tool = Callable[..., Any]
RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}}


@pytest.fixture(scope="module")
def space(
    kubectl: Tool, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    name = "e2e-workloads"
    kubectl("create", "namespace", name)
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(MODEL, models / "tiny")
    cluster.volume("models", models, name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def tiny(space: str, kubectl: Tool, eventually: Tool) -> str:
    apply(kubectl, space, engine("tiny", "models", "tiny"))
    eventually(lambda: ready(kubectl, space, "llmengine", "tiny"), seconds=180)
    return "tiny"


def pods(kubectl: Tool, space: str, name: str, label: str = "deployment") -> dict[str, Any]:
    """Name -> pod, of those that are here to stay."""
    found = kubectl("-n", space, "get", "pods", "-l", f"pitcrew.dev/{label}={name}", "-o", "json")
    return {
        pod["metadata"]["name"]: pod
        for pod in found["items"]
        if "deletionTimestamp" not in pod["metadata"]
    }


def evict(kubectl: Tool, space: str, pod: str) -> str:
    """Empty where the eviction was let through, else what the API server said."""
    path = f"/api/v1/namespaces/{space}/pods/{pod}/eviction"
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": space},
    }
    try:
        kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
    except AssertionError as refused:
        return str(refused)
    return ""


SHAPED = {
    "replicas": 2,
    "runtime": {
        "resources": RESOURCES,
        "priorityClassName": "system-cluster-critical",
        "podTemplate": {
            "metadata": {"labels": {"team": "a"}},
            "spec": {
                "hostAliases": [{"ip": "127.0.0.1", "hostnames": ["example.test"]}],
                "containers": [
                    {
                        "name": "aside",
                        "image": "pitcrew/operator:dev",
                        "command": ["python3", "-c", "import signal; signal.pause()"],
                        "resources": RESOURCES,
                    },
                    {"name": "runtime", "env": [{"name": "OMP_NUM_THREADS", "value": "1"}]},
                ],
            },
        },
    },
    "service": {"sessionAffinity": {"timeoutSeconds": 600}, "headless": True},
}


@pytest.fixture(scope="module")
def shaped(space: str, tiny: str, kubectl: Tool, eventually: Tool) -> str:
    apply(kubectl, space, deployment("shaped", tiny, **SHAPED))
    eventually(lambda: ready(kubectl, space, "llmdeployment", "shaped"), seconds=240)
    return "shaped"


def test_pods_are_as_the_spec_says_and_stay_ours(shaped: str, space: str, kubectl: Tool) -> None:
    for pod in pods(kubectl, space, shaped).values():
        containers = {c["name"]: c for c in pod["spec"]["containers"]}
        assert containers.keys() == {"runtime", "aside"}
        assert {"name": "OMP_NUM_THREADS", "value": "1"} in containers["runtime"]["env"]
        assert pod["spec"]["priorityClassName"] == "system-cluster-critical"
        assert pod["metadata"]["labels"]["team"] == "a"
        assert pod["spec"]["initContainers"][0]["args"][0] == "verify"


def test_both_services_lead_to_every_replica(
    shaped: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    sticky = kubectl("-n", space, "get", "service", shaped, "-o", "json")["spec"]
    assert sticky["sessionAffinity"] == "ClientIP"
    assert sticky["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] == 600
    headless = kubectl("-n", space, "get", "service", f"{shaped}-headless", "-o", "json")["spec"]
    assert headless["clusterIP"] == "None"

    def addresses() -> bool:
        label = f"kubernetes.io/service-name={shaped}-headless"
        found = kubectl("-n", space, "get", "endpointslices", "-l", label, "-o", "json")
        ends = [end for piece in found["items"] for end in piece.get("endpoints") or ()]
        return sum(end["conditions"]["ready"] for end in ends) == 2

    eventually(addresses, seconds=30)


def test_evictions_leave_one_replica_standing(
    shaped: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    def allowed() -> bool:
        budget = kubectl("-n", space, "get", "pdb", shaped, "-o", "json")
        return bool(budget["status"].get("disruptionsAllowed") == 1)

    eventually(allowed, seconds=60)
    first, second = pods(kubectl, space, shaped)
    assert evict(kubectl, space, first) == ""
    assert "disruption budget" in evict(kubectl, space, second)
    eventually(lambda: len(pods(kubectl, space, shaped)) == 2, seconds=60)
    eventually(lambda: ready(kubectl, space, "llmdeployment", shaped), seconds=180)
    assert second in pods(kubectl, space, shaped)


def test_with_one_replica_nothing_keeps_a_node_from_being_drained(
    shaped: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    patch = json.dumps({"spec": {"replicas": 1, "service": {"headless": False}}})
    kubectl("-n", space, "patch", "llmdeployment", shaped, "--type=merge", "-p", patch)

    def left() -> str:
        names: str = kubectl("-n", space, "get", "pdb,service", "-o", "name")
        return names

    eventually(lambda: "poddisruptionbudget" not in left(), seconds=60)
    eventually(lambda: f"{shaped}-headless" not in left(), seconds=60)


def test_a_pool_is_made_once_the_cluster_knows_pools(
    shaped: str, space: str, kubectl: Tool, eventually: Tool
) -> None:
    crd = "inferencepools.inference.networking.k8s.io"
    kubectl("delete", "crd", crd, "--ignore-not-found", "--timeout=60s")
    pool = {"endpointPickerRef": {"name": "picker", "failureMode": "FailOpen"}}
    patch = json.dumps({"spec": {"inferencePool": pool}})
    kubectl("-n", space, "patch", "llmdeployment", shaped, "--type=merge", "-p", patch)
    found = eventually(lambda: stalled(kubectl, space, "llmdeployment", shaped), seconds=180)
    assert found["reason"] == "InferencePoolMissing"
    devcluster("addon", "inference-extension")
    eventually(lambda: ready(kubectl, space, "llmdeployment", shaped), seconds=90)
    made = kubectl("-n", space, "get", "inferencepool", shaped, "-o", "json")["spec"]
    assert made["selector"]["matchLabels"] == {"pitcrew.dev/deployment": shaped}
    assert made["targetPorts"] == [{"number": 8000}]
    assert made["endpointPickerRef"]["port"] == {"number": 9002}


def refused(kubectl: Tool, space: str, **spec: object) -> str:
    with pytest.raises(AssertionError) as error:
        apply(kubectl, space, deployment("never", "tiny", **spec))
    return str(error.value)


def test_contradictions_are_refused_at_admission(space: str, kubectl: Tool) -> None:
    assert "must divide worldSize" in refused(kubectl, space, worldSize=4, ranksPerPod=3)
    budget = {"maxUnavailable": -1}
    assert "maxUnavailable" in refused(kubectl, space, podDisruptionBudget=budget)
    spread = [{"topologyKey": "zone", "minDomains": 2}]
    runtime = {"topologySpreadConstraints": spread}
    assert "whenUnsatisfiable" in refused(kubectl, space, runtime=runtime)


def test_what_the_operator_owns_is_named_with_the_remedy(
    space: str, tiny: str, kubectl: Tool, eventually: Tool
) -> None:
    template = {"spec": {"nodeSelector": {"disk": "fast"}}}
    apply(kubectl, space, deployment("greedy", tiny, runtime={"podTemplate": template}))
    found = eventually(lambda: stalled(kubectl, space, "llmdeployment", "greedy"), seconds=60)
    assert found["reason"] == "InvalidSpec"
    assert "spec.nodeSelector" in found["message"]
    assert "set spec.runtime.nodeSelector" in found["message"]
    kubectl("-n", space, "delete", "llmdeployment", "greedy")


def weights(kubectl: Tool, space: str, name: str) -> Path:
    """The largest file of a published engine, as the node sees it."""
    status = kubectl("-n", space, "get", "llmengine", name, "-o", "json")["status"]["engine"]
    claim = kubectl("-n", space, "get", "pvc", status["claimName"], "-o", "json")
    volume = kubectl("get", "pv", claim["spec"]["volumeName"], "-o", "json")["spec"]
    folder = Path((volume.get("hostPath") or volume["local"])["path"]) / status["path"]
    listed = devcluster("exec", "--", "find", str(folder), "-type", "f", "-size", "+1024k")
    return Path(listed.splitlines()[0])


def test_a_damaged_engine_never_serves(
    space: str, tiny: str, kubectl: Tool, eventually: Tool
) -> None:
    file = weights(kubectl, space, tiny)
    flip = f"b={file}; cp -p $b $b.good; printf XXXX | dd of=$b bs=1 seek=500000 conv=notrunc"
    devcluster("exec", "--", "sh", "-c", flip)
    try:
        apply(kubectl, space, deployment("damaged", tiny))

        def told() -> str:
            document = kubectl("-n", space, "get", "llmdeployment", "damaged", "-o", "json")
            text = json.dumps(document.get("status", {}).get("conditions", []))
            return text if file.name in text else ""

        assert '"Ready", "status": "True"' not in eventually(told, seconds=120)
        (pod,) = pods(kubectl, space, "damaged").values()
        main = pod["status"]["containerStatuses"][0]["state"]
        assert main["waiting"]["reason"] == "PodInitializing"
    finally:
        devcluster("exec", "--", "sh", "-c", f"mv {file}.good {file}")
        kubectl("-n", space, "delete", "llmdeployment", "damaged")


@pytest.fixture(scope="module")
def split(space: str, kubectl: Tool, eventually: Tool) -> str:
    apply(kubectl, space, engine("split", "models", "tiny", parallelism={"tensor": 2}))
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
