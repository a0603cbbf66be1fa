"""Golden prompts to pods that ask for an API key, with the rights that the real chart gives."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.product import (
    MODEL,
    Tool,
    apply,
    condition,
    deployment,
    engine,
    fetched,
    patch,
    ready,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.usefixtures("pitcrew")]
NAME = "chat"
SECRET = "chat-keys"
KEY = "a-key-that-is-told-to-nobody"
GOLDEN = {
    "prompts": ["In the beginning God"],
    "maxTokens": 8,
    "keySecretRef": {"name": SECRET, "key": "keys"},
}
CANARY = {"steps": [{"replicas": 1, "holdSeconds": 0}], "analysis": {"golden": GOLDEN}}


def locked() -> dict[str, Any]:
    """Two replicas that take the Secret's keys, and no other request for tokens."""
    reference = {"secretKeyRef": {"name": SECRET, "key": "keys"}}
    runtime = {"name": "runtime", "env": [{"name": "PITCREW_API_KEYS", "valueFrom": reference}]}
    document = deployment(NAME, "tiny", replicas=2)
    document["spec"]["runtime"]["podTemplate"] = {"spec": {"containers": [runtime]}}
    return document


def permission() -> list[dict[str, Any]]:
    """What the Secret's owner writes: one verb, one Secret, one reader."""
    rule = {
        "apiGroups": [""],
        "resources": ["secrets"],
        "verbs": ["get"],
        "resourceNames": [SECRET],
    }
    rbac, reader = "rbac.authorization.k8s.io", "pitcrew-reads-keys"
    account = {"kind": "ServiceAccount", "name": "pitcrew", "namespace": "pitcrew-system"}
    return [
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": reader},
            "rules": [rule],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": reader},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": reader},
            "subjects": [account],
        },
    ]


def test_pods_with_keys_are_asked_once_the_operator_may_read_that_one_secret(
    cluster: Cluster, namespace: str, kubectl: Tool, eventually: Tool
) -> None:
    cluster.volume("models", MODEL.parent, namespace)
    kubectl("-n", namespace, "create", "secret", "generic", SECRET, f"--from-literal=keys={KEY}")
    apply(kubectl, namespace, engine("tiny", "models", MODEL.name))
    apply(kubectl, namespace, locked())
    eventually(lambda: ready(kubectl, namespace, "llmdeployment", NAME), seconds=240)

    def found() -> dict[str, Any]:
        return fetched(kubectl, namespace, "llmdeployment", NAME)

    before = found()["status"]["rollout"]["stable"]
    changed = {"rollout": {"canary": CANARY}, "runtime": {"drainSeconds": 31}}
    patch(kubectl, namespace, "llmdeployment", NAME, **changed)

    def refused() -> bool:
        told = condition(found(), "Reconciling")
        return f"may not read Secret {SECRET} in namespace {namespace}" in told.get("message", "")

    eventually(refused, seconds=120)
    for document in permission():
        apply(kubectl, namespace, document)
    eventually(lambda: ready(kubectl, namespace, "llmdeployment", NAME), seconds=120)
    document = found()
    assert document["status"]["rollout"]["stable"] != before
    events = kubectl("-n", namespace, "get", "events", "-o", "json")
    assert KEY not in json.dumps([document, events])
