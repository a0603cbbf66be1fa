"""A real endpoint picker over an LLMDeployment's InferencePool, asked by us and by a real gateway."""

import contextlib
from collections.abc import Iterator

import httpx
import pytest
import yaml
from openai import OpenAI

from tests.e2e import gateway as envoy
from tests.e2e.conftest import REPO, Cluster, devcluster
from tests.e2e.load import load
from tests.e2e.picking import picked
from tests.e2e.product import MODEL, Tool, apply, deployment, engine, pods, ready, service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("pitcrew")]
NAME = MODEL.name
PICKER = f"{NAME}-epp"
LOOKS = 12
"""Two replicas that are alike get one of so many requests each, but for once in 2,000 times."""


@pytest.fixture(scope="module")
def pool(cluster: Cluster, kubectl: Tool, eventually: Tool) -> Iterator[str]:
    """Two replicas with a pool, and the sample's picker; the name of its namespace."""
    namespace = "e2e-picker"
    kubectl("create", "namespace", namespace)
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
    rolled_out(kubectl, namespace, PICKER)
    yield namespace
    kubectl("delete", "namespace", namespace, "--wait=false")


def rolled_out(kubectl: Tool, namespace: str, name: str) -> None:
    words = ("rollout", "status", "deployment", name, "--timeout=120s")
    kubectl("-n", namespace, *words)


def answers(url: str) -> bool:
    """Whether every node leads there by now: a Service with endpoints may be ahead of its rules."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/v1/models").status_code == 200
    return False


@pytest.fixture(scope="module")
def replicas(pool: str, kubectl: Tool) -> set[str]:
    """Their addresses."""
    return {f"{pod['status']['podIP']}:8000" for pod in pods(kubectl, pool, NAME).values()}


@pytest.fixture(scope="module")
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

    with service(pool, "busy") as url:
        eventually(lambda: answers(url), seconds=60)
        yield f"{pod['status']['podIP']}:8000", url


@pytest.fixture(scope="module")
def gateway(pool: str, cluster: Cluster, kubectl: Tool, eventually: Tool) -> Iterator[str]:
    """An Envoy that asks the picker; every node has heard of it."""
    cluster.volume("envoy", envoy.envoy(), pool)
    apply(kubectl, pool, envoy.manifests("envoy", cluster.images["operator"], PICKER))
    rolled_out(kubectl, pool, envoy.NAME)
    with service(pool, envoy.NAME) as url:
        eventually(lambda: answers(url), seconds=60)
        yield url


def test_a_picker_sends_requests_where_they_wait_least(
    pool: str, busy: tuple[str, str], replicas: set[str], eventually: Tool
) -> None:
    address, url = busy
    with service(pool, PICKER) as picker:

        def picks() -> set[str]:
            where = picker.removeprefix("http://")
            return {picked(where, NAME) for _ in range(LOOKS)}

        eventually(lambda: picks() == replicas, seconds=60)
        with load(url, NAME, clients=16, tokens=64) as crowd:
            eventually(lambda: picks() == replicas - {address}, seconds=60)
        assert crowd.failed == []
        eventually(lambda: picks() == replicas, seconds=60)


def test_requests_through_a_gateway_reach_the_replica_that_was_picked(
    gateway: str, busy: tuple[str, str], replicas: set[str], eventually: Tool
) -> None:
    address, url = busy
    with OpenAI(base_url=f"{gateway}/v1", api_key="unused", max_retries=0, timeout=60) as client:

        def served_by() -> str:
            raw = client.completions.with_raw_response
            answer = raw.create(model=NAME, prompt="And the king said", max_tokens=2)
            assert answer.parse().choices[0].text
            return str(answer.headers[envoy.SERVED_BY])

        def servers() -> set[str]:
            return {served_by() for _ in range(LOOKS)}

        eventually(lambda: servers() == replicas, seconds=60)
        with load(url, NAME, clients=16, tokens=64) as crowd:
            eventually(lambda: servers() == replicas - {address}, seconds=60)
        assert crowd.failed == []
        chat = client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "Who art thou?"}], stream=True
        )
        assert len([chunk for chunk in chat if chunk.choices]) > 1
    with load(gateway, NAME) as many:
        eventually(lambda: many.answered >= 200 or many.failed, seconds=120)
    assert many.failed == []
