"""`kubectl pitcrew`, found by the real kubectl, against the demo on the real cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cluster
from tests.e2e.product import MODEL, apply, deployment, engine, ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Plugin = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plugin(cluster: Cluster, namespace: str) -> Plugin:
    """plugin("status") -> what `kubectl pitcrew status` in the test's namespace left."""
    path = f"{Path(sys.executable).parent}:{cluster.env.get('PATH', os.environ['PATH'])}"
    env = {**os.environ, **cluster.env, "PATH": path}

    def call(
        command: str, *words: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        line = ["kubectl", "pitcrew", command, "--namespace", namespace, *words]
        return subprocess.run(
            line, env=env, input=stdin, capture_output=True, text=True, check=False
        )

    return call


@pytest.fixture
def served(
    cluster: Cluster,
    pitcrew: None,
    kubectl: Callable[..., Any],
    namespace: str,
    eventually: Callable[..., Any],
) -> str:
    """A namespace in which an engine is served."""
    cluster.volume("models", MODEL.parent, namespace)
    apply(kubectl, namespace, engine("tiny", "models", MODEL.name))
    apply(kubectl, namespace, deployment("chat", "tiny"))
    eventually(lambda: ready(kubectl, namespace, "llmdeployment", "chat"), seconds=240)
    return namespace


def test_every_command_answers_from_the_real_cluster(
    served: str, plugin: Plugin, kubectl: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    status = plugin("status").stdout
    assert "EngineReady" in status
    assert f"http://chat.{served}" in status
    assert "current" in plugin("status", "llme/tiny").stdout

    explained = plugin("explain", "chat").stdout
    assert "llmdeployment/chat is ready" in explained
    assert "Its engine, llmengine/tiny" in explained
    assert "Events" in explained

    assert "nothing is to be done" in plugin("plan", "llmd/chat").stdout
    larger = json.dumps(engine("tiny", "models", MODEL.name, shapes={"maxBatchSize": 2}))
    planned = plugin("plan", "-f", "-", stdin=larger).stdout
    assert "create Job tiny-resolve-" in planned
    assert "Predicted at" in planned

    build = kubectl("-n", served, "get", "jobs", "-o", "name")
    assert "-build-" in build
    assert "pod/" in plugin("logs", "llme/tiny", "--tail", "3").stdout
    assert "pod/chat-" in plugin("logs", "chat", "--tail", "3").stdout

    apply(kubectl, served, json.loads(larger))

    def moved() -> bool:
        found = kubectl("-n", served, "get", "llmdeployment", "chat", "-o", "json")["status"]
        return "previousEngine" in found and ready(kubectl, served, "llmdeployment", "chat")

    eventually(moved, seconds=240)
    before = kubectl("-n", served, "get", "llmdeployment", "chat", "-o", "json")["status"]
    assert "goes to" in plugin("rollback", "chat").stdout

    def back() -> bool:
        found = kubectl("-n", served, "get", "llmdeployment", "chat", "-o", "json")["status"]
        id_ = before["previousEngine"]["id"]
        return bool(
            found["engine"]["id"] == id_ and ready(kubectl, served, "llmdeployment", "chat")
        )

    eventually(back, seconds=240)
    assert "follows llmengine/tiny again" in plugin("rollback", "chat", "--undo").stdout


def test_what_is_wrong_is_told_in_one_line(pitcrew: None, plugin: Plugin) -> None:
    assert "No LLMEngine and no LLMDeployment here." in plugin("status").stdout
    for words in (("explain", "nobody"), ("rollback", "nobody"), ("plan",), ("logs", "pod/x")):
        done = plugin(*words)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
