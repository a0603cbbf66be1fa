"""The operator with the rights that the chart gives it, and no more: two of them, and one leads."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from devcluster import config as configuration
from devcluster import golang
from devcluster.artefacts import ensure
from devcluster.controlplane import ControlPlane
from devcluster.machine import go_version
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, LEASE, SERVICE
from tests.controlplane.api import Admin
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.life import is_ready
from tests.controlplane.process import Launch, OperatorProcess, launch
from tests.controlplane.test_absence import create
from tests.property.operator.fake_builder import FakeBuilder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHART = Path(__file__).resolve().parents[2] / "helm" / "pitcrew"
RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount")


def rendered() -> list[dict[str, object]]:
    config = configuration.from_environment(os.environ, Path.home())
    helm = ensure(config, golang.addons(go_version())) / "bin" / "helm"
    command = [helm, "template", "pitcrew", CHART, "--namespace", "system"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [item for item in yaml.safe_load_all(done.stdout) if item]
    return [item for item in found if item["kind"] in RIGHTS]


def give_rights(plane: ControlPlane) -> None:
    """To the service account `pitcrew` of the namespace `system`."""
    kubectl = [plane.kubectl, "--kubeconfig", plane.kubeconfig, "apply", "-f", "-"]
    subprocess.run(kubectl, input=yaml.safe_dump_all(rendered()), text=True, check=True)


def limited(plane: ControlPlane, directory: Path, identity: str, token: str) -> Launch:
    """An operator that logs in as the chart's service account."""
    how = launch(
        directory,
        f"https://127.0.0.1:{plane.port}",
        PITCREW_LEASE="system/pitcrew",
        PITCREW_LEASE_SECONDS="3",
        PITCREW_IDENTITY=identity,
    )
    document = yaml.safe_load(how.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    document["clusters"][0]["cluster"]["certificate-authority"] = str(plane.pki / "ca.crt")
    kubeconfig = directory / f"{identity}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    return replace(how, kubeconfig=kubeconfig, log=directory / f"{identity}.log")


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await look():  # noqa: ASYNC110 (the API server is asked, not an event)
            await asyncio.sleep(0.1)


async def test_chart_gives_all_the_rights_that_two_operators_need(
    plane: ControlPlane, admin: Admin, tmp_path: Path
) -> None:
    for namespace in ("system", "rights"):
        await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    give_rights(plane)
    path = "/api/v1/namespaces/system/serviceaccounts/pitcrew/token"
    token = (await admin.call("POST", path, {"spec": {}}))["status"]["token"]
    await create(admin, "rights", ENGINE, "tiny", {"model": {"huggingFace": {"repo": "acme/tiny"}}})
    served = {"engineRef": {"name": "tiny"}, "replicas": 1}
    await create(admin, "rights", DEPLOYMENT, "chat", served)
    nodes = asyncio.create_task(Kubelet(admin, FakeBuilder()).run())

    async def holder() -> str:
        lease = await admin.get(LEASE, "system", "pitcrew") or {}
        return str(lease.get("spec", {}).get("holderIdentity", ""))

    async def serves() -> bool:
        return is_ready(await admin.get(DEPLOYMENT, "rights", "chat") or {})

    async def leads(name: str) -> bool:
        return await holder() == name

    try:
        with ExitStack() as standby:
            with OperatorProcess(limited(plane, tmp_path, "first", token)) as first:
                await until(lambda: leads("first"))
                standby.enter_context(OperatorProcess(limited(plane, tmp_path, "second", token)))
                await until(serves)
                first.end(30)
            await until(lambda: leads("second"))
            await admin.merge(DEPLOYMENT, "rights", "chat", {"spec": {"service": {"port": 81}}})

            async def follows() -> bool:
                service = await admin.get(SERVICE, "rights", "chat") or {}
                return bool(service["spec"]["ports"][0]["port"] == 81)

            await until(follows)
    finally:
        nodes.cancel()
        await asyncio.gather(nodes, return_exceptions=True)
        for kind, name in ((DEPLOYMENT, "chat"), (ENGINE, "tiny")):
            await admin.delete(kind, "rights", name)
    assert "403" not in (tmp_path / "first.log").read_text() + (tmp_path / "second.log").read_text()
