"""An engine from a Hugging Face compatible hub that runs in the cluster, token and all."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.product import MODEL, REPO, apply, engine, ready, stalled
from tests.unit.builder.hub_server import COMMIT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("pitcrew")]
PORT = 8000
SERVE = f"""
import hub_server, pathlib, signal
hub = hub_server.Hub(pathlib.Path("/models/tiny-kjv"), token="s3cret")
with hub_server.serve(hub, "0.0.0.0", {PORT}):
    signal.sigwait([signal.SIGTERM])
"""


def hub(image: str) -> dict[str, Any]:
    """The hub's script, its token, its pod and its Service."""
    script = (REPO / "tests/unit/builder/hub_server.py").read_text()
    container = {
        "name": "hub",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SERVE],
        "env": [{"name": "PYTHONPATH", "value": "/hub"}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "hub", "mountPath": "/hub"},
            {"name": "models", "mountPath": "/models", "readOnly": True},
        ],
    }
    volumes = [
        {"name": "hub", "configMap": {"name": "hub"}},
        {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
    ]
    meta = {"name": "hub", "labels": {"app": "hub"}}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": meta,
                "data": {"hub_server.py": script},
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": meta,
                "stringData": {"token": "s3cret"},
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": meta,
                "spec": {
                    "containers": [container],
                    "volumes": volumes,
                    "terminationGracePeriodSeconds": 1,
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": {"selector": {"app": "hub"}, "ports": [{"port": PORT}]},
            },
        ],
    }


def from_hub(name: str, namespace: str, **source: object) -> dict[str, Any]:
    document = engine(name, "unused", "unused")
    endpoint = f"http://hub.{namespace}.svc:{PORT}"
    token = {"name": "hub", "key": "token"}
    document["spec"]["model"] = {
        "huggingFace": {
            "repo": "acme/tiny",
            "endpoint": endpoint,
            "tokenSecretRef": token,
            **source,
        }
    }
    return document


def test_a_revision_becomes_its_commit_and_an_unknown_one_stalls(
    namespace: str, cluster: Cluster, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    cluster.volume("models", MODEL.parent, namespace)
    apply(kubectl, namespace, hub(cluster.images["builder"]))
    kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/hub", "--timeout=60s")

    apply(kubectl, namespace, from_hub("tagged", namespace, revision="v1"))
    eventually(lambda: ready(kubectl, namespace, "llmengine", "tagged"), seconds=120)
    status = kubectl("-n", namespace, "get", "llmengine", "tagged", "-o", "json")["status"]
    assert status["engine"]["commit"] == COMMIT
    assert status["engine"]["tag"].startswith(f"tiny-{COMMIT[:7]}-")

    apply(kubectl, namespace, from_hub("absent", namespace, revision="v9"))
    found = eventually(lambda: stalled(kubectl, namespace, "llmengine", "absent"), seconds=120)
    assert found["reason"] == "CheckpointNotFound"
    assert "v9" in found["message"]
