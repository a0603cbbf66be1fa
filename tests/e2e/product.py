"""What the product's end-to-end tests share: conditions, manifests and the way to a Service."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Cluster, devcluster
from tests.e2e.load import CLIENTS, Load, load

Tool = Callable[..., Any]
REPO = Path(__file__).resolve().parents[2]
MODEL = REPO / "samples" / "models" / "tiny-kjv"


def condition(document: dict[str, Any], kind: str) -> dict[str, Any]:
    """The named condition, or an empty one where the status is older than the spec."""
    status = document.get("status", {})
    if status.get("observedGeneration") != document["metadata"]["generation"]:
        return {}
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def fetched(kubectl: Tool, namespace: str, kind: str, name: str) -> dict[str, Any]:
    """One object."""
    document: dict[str, Any] = kubectl("-n", namespace, "get", kind, name, "-o", "json")
    return document


def ready(kubectl: Callable[..., Any], namespace: str, kind: str, name: str) -> bool:
    """Is the object Ready for its current generation?"""
    document = fetched(kubectl, namespace, kind, name)
    return bool(condition(document, "Ready").get("status") == "True")


def stalled(kubectl: Callable[..., Any], namespace: str, kind: str, name: str) -> dict[str, Any]:
    """The object's Stalled condition where it is true, else an empty one."""
    found = condition(fetched(kubectl, namespace, kind, name), "Stalled")
    return found if found.get("status") == "True" else {}


def apply(kubectl: Callable[..., Any], namespace: str, document: dict[str, Any]) -> None:
    """Apply one object, or a List of them."""
    kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(document))


def patch(kubectl: Tool, namespace: str, kind: str, name: str, **spec: object) -> None:
    """Merge fields into the object's spec; None removes one."""
    body = json.dumps({"spec": spec})
    kubectl("-n", namespace, "patch", kind, name, "--type=merge", "-p", body)


def pods(kubectl: Tool, namespace: str, name: str, label: str = "deployment") -> dict[str, Any]:
    """Name -> pod of an LLMDeployment, of those that are here to stay."""
    selector = f"pitcrew.dev/{label}={name}"
    found = kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
    return {
        pod["metadata"]["name"]: pod
        for pod in found["items"]
        if "deletionTimestamp" not in pod["metadata"]
    }


def evict(kubectl: Tool, namespace: str, pod: str) -> str:
    """Empty where the eviction was let through, else what the API server said."""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": namespace},
    }
    try:
        kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
    except AssertionError as refused:
        return str(refused)
    return ""


def stored(kubectl: Tool, namespace: str, name: str) -> Path:
    """The directory of an LLMEngine's newest engine, as the node sees it."""
    status = kubectl("-n", namespace, "get", "llmengine", name, "-o", "json")["status"]["engine"]
    claim = kubectl("-n", namespace, "get", "pvc", status["claimName"], "-o", "json")
    volume = kubectl("get", "pv", claim["spec"]["volumeName"], "-o", "json")["spec"]
    return Path((volume.get("hostPath") or volume["local"])["path"]) / status["path"]


def weights(folder: Path) -> Path:
    """The largest file of a stored engine."""
    listed = devcluster("exec", "--", "find", str(folder), "-type", "f", "-size", "+1024k")
    return Path(listed.splitlines()[0])


@contextmanager
def service(namespace: str, name: str) -> Iterator[str]:
    """The Service's address, reachable from here for as long as the block runs."""
    command = [sys.executable, "-m", "devcluster", "forward", f"{namespace}/{name}"]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def engine(name: str, claim: str, path: str, **spec: object) -> dict[str, Any]:
    """An LLMEngine of a checkpoint on a volume, with little CPU asked for."""
    resources = {"requests": {"cpu": "50m", "memory": "128Mi"}}
    return {
        "apiVersion": "pitcrew.dev/v1alpha1",
        "kind": "LLMEngine",
        "metadata": {"name": name},
        "spec": {
            "model": {"volume": {"claimName": claim, "path": path}},
            "shapes": {"maxBatchSize": 4},
            "build": {"resources": resources},
            **spec,
        },
    }


def deployment(name: str, engine_name: str, **spec: object) -> dict[str, Any]:
    """An LLMDeployment of one replica, with little CPU asked for."""
    resources = {"requests": {"cpu": "50m", "memory": "128Mi"}}
    return {
        "apiVersion": "pitcrew.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {
            "engineRef": {"name": engine_name},
            "replicas": 1,
            "runtime": {"resources": resources},
            **spec,
        },
    }


@contextmanager
def served(
    cluster: Cluster, kubectl: Tool, name: str, namespace: str, **spec: object
) -> Iterator[str]:
    """A namespace where two replicas of the sample engine `tiny` are to serve as `name`; gone after it."""
    kubectl("create", "namespace", namespace)
    cluster.volume("tiny", MODEL.parent, namespace)
    apply(kubectl, namespace, engine("tiny", "tiny", MODEL.name))
    apply(kubectl, namespace, deployment(name, "tiny", replicas=2, **spec))
    yield namespace
    kubectl("delete", "namespace", namespace, "--wait=false")


@contextmanager
def asked(
    kubectl: Tool,
    eventually: Tool,
    namespace: str,
    name: str,
    seconds: float,
    clients: int = CLIENTS,
) -> Iterator[Load]:
    """Clients of a deployment, who never stop asking once it is Ready."""
    eventually(lambda: ready(kubectl, namespace, "llmdeployment", name), seconds=seconds)
    with service(namespace, name) as url, load(url, MODEL.name, clients=clients) as client:
        yield client
