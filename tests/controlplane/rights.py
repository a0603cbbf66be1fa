"""The operator with the rights that the chart gives it, and no more."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import yaml

from devcluster import config as configuration
from devcluster import golang
from devcluster.artefacts import ensure
from devcluster.controlplane import ControlPlane
from devcluster.machine import go_version
from tests.controlplane.api import Admin, Object, Refused
from tests.controlplane.process import Launch, launch

CHART = Path(__file__).resolve().parents[2] / "helm" / "pitcrew"
RIGHTS = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount")


def rendered(*options: str) -> list[Object]:
    """What the chart gives rights by."""
    config = configuration.from_environment(os.environ, Path.home())
    helm = ensure(config, golang.addons(go_version())) / "bin" / "helm"
    command = [helm, "template", "pitcrew", CHART, "--namespace", "system"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    found = [item for item in yaml.safe_load_all(done.stdout) if item]
    return [item for item in found if item["kind"] in RIGHTS]


async def give_rights(plane: ControlPlane, admin: Admin, *options: str) -> str:
    """To the service account `pitcrew` of the namespace `system`, as the chart does; its token."""
    await make_namespaces(admin, "system")
    apply(plane, rendered(*options))
    path = "/api/v1/namespaces/system/serviceaccounts/pitcrew/token"
    return str((await admin.call("POST", path, {"spec": {}}))["status"]["token"])


def apply(plane: ControlPlane, objects: list[Object], *options: str) -> None:
    """With the control plane's kubectl."""
    kubectl = [plane.kubectl, "--kubeconfig", plane.kubeconfig, "apply", "-f", "-", *options]
    subprocess.run(kubectl, input=yaml.safe_dump_all(objects), text=True, check=True)


async def make_namespaces(admin: Admin, *names: str) -> None:
    """Those that are not there yet."""
    for name in names:
        try:
            await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        except Refused as error:
            if error.status != 409:
                raise


def limited(
    plane: ControlPlane, directory: Path, identity: str, token: str, **settings: str
) -> Launch:
    """An operator that logs in as the chart's service account."""
    how = launch(
        directory,
        f"https://127.0.0.1:{plane.port}",
        PITCREW_LEASE="system/pitcrew",
        PITCREW_LEASE_SECONDS="3",
        PITCREW_IDENTITY=identity,
        **settings,
    )
    document = yaml.safe_load(how.kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    document["clusters"][0]["cluster"]["certificate-authority"] = str(plane.pki / "ca.crt")
    kubeconfig = directory / f"{identity}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(document))
    return replace(how, kubeconfig=kubeconfig, log=directory / f"{identity}.log")
