"""The demo as a user runs it, and what must survive afterwards: on the real cluster."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import Cluster
from tests.e2e.product import REPO, condition, ready, service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SYSTEM = "pitcrew-system"


def run_demo(record: Path) -> str:
    """Run the demo and return everything it printed."""
    command = [sys.executable, "samples/demo.py", "--timings", str(record)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    record = tmp_path_factory.mktemp("demo") / "timings.json"
    text = run_demo(record)
    assert json.loads(record.read_text())["firstToken"] > 0
    return text


@pytest.fixture(scope="module")
def client(printed: str) -> Iterator[OpenAI]:
    with (
        service("default", "tiny-kjv") as url,
        OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60) as client,
    ):
        yield client


def pods(kubectl: Callable[..., Any]) -> dict[str, str]:
    """Name -> uid of the pods that serve."""
    found = kubectl("-n", "default", "get", "pods", "-l", selector(kubectl), "-o", "json")
    return {p["metadata"]["name"]: p["metadata"]["uid"] for p in found["items"]}


def selector(kubectl: Callable[..., Any]) -> str:
    text: str = kubectl("get", "llmdeployment", "tiny-kjv", "-o", "jsonpath={.status.selector}")
    assert text
    return text


def test_it_prints_an_answer_both_resources_and_the_way_out(printed: str) -> None:
    assert re.search(r"llmengine\.pitcrew\.dev/tiny-kjv\s.*True", printed)
    assert re.search(r"llmdeployment\.pitcrew\.dev/tiny-kjv\s.*True", printed)
    assert "make demo-down" in printed
    answer = printed.split("mountain.")[-1].split("NAME")[0]
    assert len(re.findall(r"[a-z]{2,}", answer)) > 20


def test_the_engine_is_told_in_full_by_its_status(
    printed: str, kubectl: Callable[..., Any]
) -> None:
    engine = kubectl("get", "llmengine", "tiny-kjv", "-o", "json")["status"]["engine"]
    assert re.fullmatch(r"[0-9a-f]{64}", engine["id"])
    assert engine["path"].endswith(engine["id"][:12])
    assert engine["tag"].startswith("tiny-kjv-" + engine["commit"][:7])
    assert engine["worldSize"] == 1


def test_a_second_run_leaves_the_pods_alone(
    printed: str, kubectl: Callable[..., Any], tmp_path: Path
) -> None:
    before = pods(kubectl)
    run_demo(tmp_path / "timings.json")
    assert pods(kubectl) == before
    assert len(before) == 2


def test_streamed_text_equals_whole_text_for_every_client(client: OpenAI) -> None:
    def ask(stream: bool) -> str:
        request: dict[str, Any] = {
            "model": "tiny-kjv",
            "prompt": "And the king said",
            "max_tokens": 24,
        }
        if not stream:
            return client.completions.create(**request, temperature=0).choices[0].text
        chunks = client.completions.create(**request, temperature=0, stream=True)
        return "".join(c.choices[0].text for c in chunks if c.choices)

    alone = ask(stream=False)
    assert len(alone) > 20
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, [True, False] * 12))
    assert answers == {alone}


def test_containers_are_not_root_and_cannot_write_their_root(
    printed: str, kubectl: Callable[..., Any]
) -> None:
    probe = (
        "import os\nprint(os.getuid())\ntry: open('/x', 'w')\nexcept OSError as e: print(e.errno)"
    )
    for namespace, workload in (("default", "service/tiny-kjv"), (SYSTEM, "deploy/pitcrew")):
        text = kubectl("-n", namespace, "exec", workload, "--", "python3", "-c", probe)
        assert text.split() == ["10001", "30"]  # EROFS


def test_the_operator_may_not_read_secrets_nor_touch_other_workloads(
    printed: str, kubectl: Callable[..., Any]
) -> None:
    pod = kubectl("-n", SYSTEM, "get", "pods", "-o", "json")["items"][0]
    account = f"system:serviceaccount:{SYSTEM}:{pod['spec']['serviceAccountName']}"

    def may(verb: str, resource: str) -> bool:
        answer = kubectl("auth", "can-i", verb, resource, "--as", account, "-A", check=False)
        return bool(answer.strip() == "yes")

    assert may("create", "jobs.batch")
    forbidden = [
        ("get", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
        ("update", "nodes"),
        ("delete", "namespaces"),
        ("delete", "persistentvolumeclaims"),
    ]
    assert [what for what in forbidden if may(*what)] == []


def test_a_deleted_pod_is_replaced_and_the_service_goes_on(
    client: OpenAI, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    victim = next(iter(pods(kubectl)))
    kubectl("-n", "default", "delete", "pod", victim, "--wait=false")

    def answered() -> str:
        reply = client.completions.create(model="tiny-kjv", prompt="In the", max_tokens=4)
        return reply.choices[0].text

    assert answered()
    eventually(lambda: victim not in pods(kubectl) and len(pods(kubectl)) == 2, seconds=90)
    eventually(lambda: ready(kubectl, "default", "llmdeployment", "tiny-kjv"), seconds=120)
    assert answered()


def test_a_killed_operator_mends_what_happened_meanwhile(
    printed: str, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    name = kubectl("-n", SYSTEM, "get", "pods", "-o", "json")["items"][0]["metadata"]["name"]
    kubectl("-n", SYSTEM, "delete", "pod", name, "--grace-period=0", "--force")
    kubectl("-n", "default", "delete", "service", "tiny-kjv")
    kubectl("-n", "default", "delete", "deployment", "-l", selector(kubectl), "--wait=true")

    def back() -> bool:
        children = kubectl(
            *("-n", "default", "get", "deploy,svc", "-l", selector(kubectl)),
            *("--ignore-not-found", "-o", "name"),
            check=False,
        )
        return "deployment.apps/tiny-kjv-" in children and "service/tiny-kjv" in children

    eventually(back, seconds=120)
    eventually(lambda: ready(kubectl, "default", "llmdeployment", "tiny-kjv"), seconds=120)


def test_scaling_goes_through_the_scale_subresource(
    printed: str, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    def count(replicas: int) -> bool:
        status = kubectl("get", "llmdeployment", "tiny-kjv", "-o", "json")["status"]
        return bool(
            status.get("readyReplicas") == replicas
            and len(pods(kubectl)) == replicas
            and ready(kubectl, "default", "llmdeployment", "tiny-kjv")
        )

    for replicas in (1, 2):
        kubectl("scale", "llmdeployment", "tiny-kjv", f"--replicas={replicas}")
        eventually(lambda replicas=replicas: count(replicas), seconds=120)


def test_conditions_follow_kstatus(printed: str, kubectl: Callable[..., Any]) -> None:
    for kind in ("llmengine", "llmdeployment"):
        found = kubectl("get", kind, "tiny-kjv", "-o", "json")
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        assert condition(found, "Ready")["status"] == "True"
        for abnormal in ("Reconciling", "Stalled"):
            assert condition(found, abnormal).get("status", "False") == "False"
