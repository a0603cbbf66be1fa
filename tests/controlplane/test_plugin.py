"""`kubectl pitcrew` with the real kubectl on a real API server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster.controlplane import ControlPlane
from pitcrew_operator.kinds import ENGINE, WORKLOAD
from tests.controlplane.api import Admin, Object
from tests.controlplane.process import SETTINGS
from tests.controlplane.rights import make_namespaces
from tests.controlplane.test_absence import create

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def pitcrew(plane: ControlPlane, *words: str, stdin: str = "") -> str:
    """What a command prints."""
    path = f"{plane.kubectl.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "KUBECONFIG": str(plane.kubeconfig)}
    line = ["kubectl", "pitcrew", *words]
    done = subprocess.run(line, env=env, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def operator(name: str) -> Object:
    """The Deployment of a chart that was given another name."""
    labels = {"app.kubernetes.io/component": "operator", "app.kubernetes.io/name": name}
    env = [{"name": key, "value": value} for key, value in SETTINGS.items()]
    container = {"name": "operator", "image": "none", "env": env}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


async def test_a_manifest_is_planned_in_the_namespace_that_it_names(
    plane: ControlPlane, admin: Admin
) -> None:
    await make_namespaces(admin, "planned", "renamed")
    await admin.create(WORKLOAD, "renamed", operator("engines"))
    try:
        await create(admin, "planned", ENGINE, "tiny", {"model": {"huggingFace": {"repo": "a/b"}}})
        manifest = {
            "apiVersion": "pitcrew.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": "chat", "namespace": "planned"},
            "spec": {"engineRef": {"name": "tiny"}},
        }
        told = pitcrew(plane, "plan", "-f", "-", stdin=json.dumps(manifest))
        assert "EngineNotReady" in told
        assert await admin.get(ENGINE, "planned", "tiny") is not None
    finally:
        await admin.delete(WORKLOAD, "renamed", "engines")
        await admin.delete(ENGINE, "planned", "tiny")
