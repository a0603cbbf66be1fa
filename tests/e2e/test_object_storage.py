"""Engines in object storage: built into a bucket, pulled from it by the pods that serve them."""

import json
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.product import (
    MODEL,
    REPO,
    apply,
    condition,
    deployment,
    engine,
    ready,
    service,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("pitcrew")]
PORT = 9000
SERVE = f"""
import s3_server, signal
with s3_server.serve("0.0.0.0", {PORT}) as server:
    server.bucket()
    open("/tmp/ready", "w").close()
    signal.sigwait([signal.SIGTERM])
"""
READY = ["python3", "-c", "open('/tmp/ready')"]
BUCKET = "bucket-1"
LIBRARIES = (
    "_cffi_backend", "blinker", "boto3", "certifi", "cffi", "charset_normalizer", "click", "cryptography",
    "dateutil", "flask", "idna", "itsdangerous", "jinja2", "markupsafe", "moto", "py_partiql_parser",
    "requests", "responses", "s3transfer", "six", "werkzeug", "xmltodict", "yaml",
)  # fmt: skip
"""What moto's server needs besides what the builder's image has, by the beginnings of their names."""


def libraries(target: Path) -> Path:
    """A directory that a pod may import the server from, with the metadata that it asks for."""
    site = Path(sysconfig.get_paths()["purelib"])
    for found in (item for name in LIBRARIES for item in site.glob(f"{name}*")):
        copy = shutil.copytree if found.is_dir() else shutil.copy
        copy(found, target / found.name)
    return target


def storage(image: str) -> dict[str, Any]:
    """The server's script, its keys, its pod and its Service."""
    script = (REPO / "tests/unit/builder/s3_server.py").read_text()
    container = {
        "name": "s3",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SERVE],
        "env": [
            {"name": "PYTHONPATH", "value": "/s3:/libraries"},
            # The Service's name is no bucket's.
            {"name": "S3_IGNORE_SUBDOMAIN_BUCKETNAME", "value": "true"},
        ],
        "readinessProbe": {"exec": {"command": READY}, "periodSeconds": 2},
        "volumeMounts": [
            {"name": "s3", "mountPath": "/s3"},
            {"name": "libraries", "mountPath": "/libraries", "readOnly": True},
        ],
    }
    volumes = [
        {"name": "s3", "configMap": {"name": "s3"}},
        {
            "name": "libraries",
            "persistentVolumeClaim": {"claimName": "libraries", "readOnly": True},
        },
    ]
    meta = {"name": "s3", "labels": {"app": "s3"}}
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    pod = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1}
    port = {"selector": {"app": "s3"}, "ports": [{"port": PORT}]}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {"apiVersion": "v1", "kind": kind, "metadata": meta, **content}
            for kind, content in (
                ("ConfigMap", {"data": {"s3_server.py": script}}),
                ("Secret", {"stringData": keys}),
                ("Pod", {"spec": pod}),
                ("Service", {"spec": port}),
            )
        ],
    }


def prompts() -> dict[str, Any]:
    """Held-out text and a task, as a ConfigMap."""
    lines = (MODEL / "heldout-text.txt").read_text().split("\n")
    texts = [line[:300] for line in lines if len(line) > 100][:8]
    held_out = "\n".join(json.dumps({"text": text}) for text in texts)
    task = json.dumps({"prompt": "In the beginning", "reference": "God created the heaven"})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "prompts"},
        "data": {"held-out.jsonl": held_out, "task.jsonl": task},
    }


def narrow(bucket: dict[str, Any]) -> dict[str, Any]:
    """An engine in the bucket that is proven on prompts of a ConfigMap."""

    def key(file: str) -> dict[str, Any]:
        return {"configMap": {"name": "prompts", "key": file}}

    task = {"metric": "bleu", "prompts": key("task.jsonl"), "maxTokens": 8, "maxRegression": "100"}
    return engine(
        "narrow",
        "models",
        "tiny-kjv",
        store={"s3": bucket},
        quantization={"weights": "int8"},
        proof={"prompts": key("held-out.jsonl"), "tasks": [task]},
    )


def test_engines_are_published_to_a_bucket_and_pulled_by_the_pods(
    namespace: str,
    cluster: Cluster,
    kubectl: Callable[..., Any],
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> None:
    cluster.volume("models", MODEL.parent, namespace)
    cluster.volume("libraries", libraries(tmp_path), namespace)
    apply(kubectl, namespace, storage(cluster.images["builder"]))
    bucket = {
        "bucket": BUCKET,
        "prefix": "engines",
        "endpoint": f"http://s3.{namespace}.svc:{PORT}",
        "credentialsSecretRef": {"name": "s3"},
    }

    def get(kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = kubectl("-n", namespace, "get", kind, name, "-o", "json")
        return found

    # Prompts that are not there yet are named, and nothing hangs.
    apply(kubectl, namespace, narrow(bucket))
    waits = eventually(
        lambda: (
            condition(get("llmengine", "narrow"), "Ready").get("reason") == "PromptsNotFound"
            and condition(get("llmengine", "narrow"), "Ready")
        )
    )
    assert "ConfigMap prompts" in waits["message"]
    apply(kubectl, namespace, prompts())

    kubectl("-n", namespace, "wait", "--for=condition=Ready", "pod/s3", "--timeout=120s")
    eventually(lambda: ready(kubectl, namespace, "llmengine", "narrow"), seconds=240)
    built = get("llmengine", "narrow")["status"]["engine"]
    assert built["s3"]["bucket"] == BUCKET
    assert "claimName" not in built
    claims = kubectl("-n", namespace, "get", "pvc", "-o", "json")["items"]
    assert {claim["metadata"]["name"] for claim in claims} == {"models", "libraries"}

    apply(kubectl, namespace, deployment("chat", "narrow"))
    eventually(lambda: ready(kubectl, namespace, "llmdeployment", "chat"), seconds=180)
    with service(namespace, "chat") as url:
        asked = {"model": "tiny-kjv", "prompt": "In the beginning", "max_tokens": 8}
        answer = httpx.post(f"{url}/v1/completions", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"].strip()
