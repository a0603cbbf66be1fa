"""What the product's end-to-end tests share: conditions, manifests and the way to a Service."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
MODEL = REPO / "samples" / "models" / "tiny-kjv"


def condition(document: dict[str, Any], kind: str) -> dict[str, Any]:
    """The named condition, or an empty one where the status is older than the spec."""
    status = document.get("status", {})
    if status.get("observedGeneration") != document["metadata"]["generation"]:
        return {}
    return next((c for c in status.get("conditions", []) if c["type"] == kind), {})


def ready(kubectl: Callable[..., Any], namespace: str, kind: str, name: str) -> bool:
    """Is the object Ready for its current generation?"""
    document = kubectl("-n", namespace, "get", kind, name, "-o", "json")
    return bool(condition(document, "Ready").get("status") == "True")


def stalled(kubectl: Callable[..., Any], namespace: str, kind: str, name: str) -> dict[str, Any]:
    """The object's Stalled condition where it is true, else an empty one."""
    document = kubectl("-n", namespace, "get", kind, name, "-o", "json")
    found = condition(document, "Stalled")
    return found if found.get("status") == "True" else {}


def apply(kubectl: Callable[..., Any], namespace: str, document: dict[str, Any]) -> None:
    """Apply one object, or a List of them."""
    kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(document))


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
