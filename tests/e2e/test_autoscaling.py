"""Replicas follow GPU utilization on the real cluster, as a process that speaks like DCGM's exporter tells it.

The node is given GPUs by name only, as Kubernetes lets an administrator do; the engine runs on its CPU.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from devcluster.volume import INSIDE, volume_name
from tests.dcgm import exposition
from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.product import (
    MODEL,
    Tool,
    apply,
    condition,
    deployment,
    engine,
    fetched,
    patch,
    pods,
    ready,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("pitcrew")]

GPU = "nvidia.com/gpu"
NAME = "scaled"


@pytest.fixture(scope="module")
def space(kubectl: Tool, cluster: Cluster) -> Iterator[str]:
    name = "e2e-autoscaling"
    kubectl("create", "namespace", name)
    cluster.volume("tiny", MODEL.parent, name)
    apply(kubectl, name, engine("tiny", "tiny", MODEL.name))
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def gpus(kubectl: Tool) -> Iterator[None]:
    """The node says that it has some."""
    (node,) = (n["metadata"]["name"] for n in kubectl("get", "nodes", "-o", "json")["items"])

    def advertise(count: str | None) -> None:
        body = json.dumps({"status": {"capacity": {GPU: count}, "allocatable": {GPU: count}}})
        words = ("patch", "node", node, "--subresource=status", "--type=merge", "-p", body)
        kubectl(*words)

    advertise("8")
    yield
    advertise(None)


class Exporter:
    """Serves the file `metrics` of a volume on the node, at the port of NVIDIA's exporter."""

    def __init__(self, kubectl: Tool, space: str) -> None:
        self._kubectl, self._space = kubectl, space
        self._file = f"{INSIDE}/{volume_name('dcgm', space)}/metrics"

    def tell(self, percent: float) -> list[str]:
        """Of every pod of the deployment. Returns their names."""
        names = sorted(pods(self._kubectl, self._space, NAME))
        text = exposition(self._space, dict.fromkeys(names, percent))
        write = f"cat > {self._file}.next && mv {self._file}.next {self._file}"
        devcluster("exec", "--", "sh", "-c", write, stdin=text)
        return names

    def end(self) -> None:
        """The process is gone, and its pod."""
        self._kubectl("-n", self._space, "delete", "pod", "exporter", "--grace-period=1")


@pytest.fixture(scope="module")
def exporter(
    kubectl: Tool,
    cluster: Cluster,
    space: str,
    eventually: Tool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exporter:
    folder = tmp_path_factory.mktemp("dcgm")
    folder.chmod(0o755)
    (folder / "metrics").write_text(exposition(space, {}))
    cluster.volume("dcgm", folder, space)
    container = {
        "name": "exporter",
        "image": cluster.images["runtime"],
        "command": ["python", "-m", "http.server", "9400", "--directory", "/dcgm"],
        "volumeMounts": [{"name": "dcgm", "mountPath": "/dcgm"}],
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
    }
    volume = {"name": "dcgm", "persistentVolumeClaim": {"claimName": "dcgm", "readOnly": True}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "exporter", "labels": {"app": "nvidia-dcgm-exporter"}},
        "spec": {"containers": [container], "volumes": [volume]},
    }
    apply(kubectl, space, pod)

    def runs() -> bool:
        found = fetched(kubectl, space, "pod", "exporter")
        conditions = found["status"].get("conditions") or ()
        return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)

    eventually(runs, seconds=90)
    return Exporter(kubectl, space)


@pytest.fixture(scope="module")
def scaled(kubectl: Tool, space: str, gpus: None, eventually: Tool) -> str:
    """One replica, and up to three; the window for fewer is a short one."""
    asked = deployment(NAME, "tiny")
    del asked["spec"]["replicas"]
    asked["spec"]["runtime"]["resources"]["limits"] = {GPU: 1}
    asked["spec"]["autoscaling"] = {
        "maxReplicas": 3,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 30, "periodSeconds": 15}},
    }
    apply(kubectl, space, asked)
    eventually(lambda: ready(kubectl, space, "llmdeployment", NAME), seconds=240)
    return NAME


def status(kubectl: Tool, space: str) -> dict[str, Any]:
    found: dict[str, Any] = fetched(kubectl, space, "llmdeployment", NAME)["status"]
    return found


def events(kubectl: Tool, space: str) -> list[str]:
    """Reasons of the deployment's events, in no order."""
    found = kubectl("-n", space, "get", "events.events.k8s.io", "-o", "json")["items"]
    return [e["reason"] for e in found if (e.get("regarding") or {}).get("name") == NAME]


def test_replicas_follow_gpu_utilization(
    kubectl: Tool, space: str, exporter: Exporter, scaled: str, eventually: Tool
) -> None:
    exporter.tell(85)

    def serve(replicas: int) -> bool:
        found = status(kubectl, space)
        decided = (found.get("autoscaling") or {}).get("desiredReplicas")
        is_there = len(pods(kubectl, space, NAME)) == replicas
        return is_there and (decided, found["readyReplicas"]) == (replicas, replicas)

    eventually(lambda: serve(2), seconds=240)
    told = status(kubectl, space)["autoscaling"]["message"]
    assert told == "gpuUtilization is 85 %, with a target of 80 %: 2 replicas in place of 1"
    assert len(exporter.tell(40)) == 2
    eventually(lambda: serve(1), seconds=240)
    told = status(kubectl, space)["autoscaling"]["message"]
    assert "gpuUtilization is 40 %" in told
    assert events(kubectl, space).count("ScaledUp") == 1
    assert events(kubectl, space).count("ScaledDown") == 1
    spec = fetched(kubectl, space, "llmdeployment", NAME)["spec"]
    assert "replicas" not in spec


def test_an_exporter_that_is_gone_freezes_replicas_and_is_told_of(
    kubectl: Tool, space: str, exporter: Exporter, scaled: str, eventually: Tool
) -> None:
    exporter.tell(85)
    eventually(
        lambda: (status(kubectl, space).get("autoscaling") or {}).get("desiredReplicas") == 2,
        seconds=120,
    )
    eventually(lambda: status(kubectl, space)["readyReplicas"] == 2, seconds=240)
    exporter.tell(10)
    exporter.end()

    def missing() -> dict[str, Any]:
        found = condition(fetched(kubectl, space, "llmdeployment", NAME), "ScalingActive")
        return found if found.get("reason") == "GpuMetricsMissing" else {}

    found = eventually(missing, seconds=150)
    assert found["status"] == "False"
    assert "let a DCGM exporter run" in found["message"]
    assert status(kubectl, space)["autoscaling"]["desiredReplicas"] == 2
    assert ready(kubectl, space, "llmdeployment", NAME), "what serves goes on serving"


def test_numbers_by_hand_are_refused(kubectl: Tool, space: str, scaled: str) -> None:
    with pytest.raises(AssertionError, match="remove autoscaling to set it by hand"):
        patch(kubectl, space, "llmdeployment", NAME, replicas=3)
    with pytest.raises(AssertionError, match="remove autoscaling to set it by hand"):
        kubectl("-n", space, "scale", "llmdeployment", NAME, "--replicas=3")
