"""The shape of what serves: pods, disruption budget, Services, verification."""

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.product import (
    MODEL,
    Tool,
    apply,
    deployment,
    engine,
    evict,
    pods,
    ready,
    stalled,
    stored,
    weights,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("pitcrew")]

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

    def is_missed() -> bool:
        # Until the operator has heard that pools are gone, the API server refuses its pool.
        found = stalled(kubectl, space, "llmdeployment", shaped)
        return found.get("reason") == "InferencePoolMissing"

    eventually(is_missed, seconds=180)
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


def test_a_damaged_engine_never_serves(
    space: str, tiny: str, kubectl: Tool, eventually: Tool
) -> None:
    file = weights(stored(kubectl, space, tiny))
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
