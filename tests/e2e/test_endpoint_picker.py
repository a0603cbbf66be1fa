"""A real endpoint picker over an LLMDeployment's InferencePool: it reads our metrics, and picks by them."""

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.conftest import REPO, Cluster, devcluster
from tests.e2e.load import load
from tests.e2e.picking import picked
from tests.e2e.product import MODEL, Tool, apply, deployment, engine, pods, ready, service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("pitcrew")]
NAME = MODEL.name
PICKER = f"{NAME}-epp"
LOOKS = 12
"""Two replicas that are alike get one of so many requests each, but for once in 2,000 times."""


@pytest.fixture
def pool(cluster: Cluster, namespace: str, kubectl: Tool, eventually: Tool) -> str:
    """Two replicas with a pool, and the sample's picker; the name of its namespace."""
    devcluster("addon", "inference-extension")
    image = devcluster("addon", "endpoint-picker")
    cluster.volume("models", MODEL.parent, namespace)
    apply(kubectl, namespace, engine(NAME, "models", MODEL.name))
    reference = {"endpointPickerRef": {"name": PICKER, "port": 9002}}
    apply(kubectl, namespace, deployment(NAME, NAME, replicas=2, inferencePool=reference))
    eventually(lambda: ready(kubectl, namespace, "llmdeployment", NAME), seconds=240)
    sample = (REPO / "samples" / "endpoint-picker.yaml").read_text()
    for document in yaml.safe_load_all(sample.replace("YOUR/epp", image)):
        apply(kubectl, namespace, document)
    rollout = ("rollout", "status", "deployment", PICKER, "--timeout=120s")
    kubectl("-n", namespace, *rollout)
    return namespace


@pytest.fixture
def busy(pool: str, kubectl: Tool, eventually: Tool) -> Iterator[tuple[str, str]]:
    """The address of one replica, and where it alone is reached from here."""
    name, pod = next(iter(pods(kubectl, pool, NAME).items()))
    kubectl("-n", pool, "label", "pod", name, "busy=yes")
    door = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "busy"},
        "spec": {"selector": {"busy": "yes"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    apply(kubectl, pool, door)

    def leads() -> bool:
        label = "kubernetes.io/service-name=busy"
        found = kubectl("-n", pool, "get", "endpointslices", "-l", label, "-o", "json")
        return any(piece.get("endpoints") for piece in found["items"])

    eventually(leads, seconds=60)
    with service(pool, "busy") as url:
        yield f"{pod['status']['podIP']}:8000", url


def test_a_picker_sends_requests_where_they_wait_least(
    pool: str, busy: tuple[str, str], kubectl: Tool, eventually: Tool
) -> None:
    address, url = busy
    both = {f"{pod['status']['podIP']}:8000" for pod in pods(kubectl, pool, NAME).values()}
    with service(pool, PICKER) as picker:

        def picks() -> set[str]:
            where = picker.removeprefix("http://")
            return {picked(where, NAME) for _ in range(LOOKS)}

        eventually(lambda: picks() == both, seconds=60)
        with load(url, NAME, clients=16, tokens=64) as crowd:
            eventually(lambda: picks() == both - {address}, seconds=60)
        assert crowd.failed == []
        eventually(lambda: picks() == both, seconds=60)
    conditions = kubectl("-n", pool, "get", "llmdeployment", NAME, "-o", "json")["status"]
    assert '"InferencePoolMissing"' not in json.dumps(conditions)
