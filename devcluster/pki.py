"""Who may call whom: the subjects of the certificates, and the kubeconfigs made of them."""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster.config import API_PORT, NODE, NODE_IP, Config
from devcluster.process import run

SERVICE_IP = "10.96.0.1"


@dataclass(frozen=True)
class Subject:
    """One certificate, good as client and as server."""

    name: str
    commonName: str
    organization: Sequence[str] = ()
    dns: Sequence[str] = ()
    ip: Sequence[str] = ()


SUBJECTS = (
    Subject(
        "apiserver",
        "kube-apiserver",
        dns=(
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ),
        ip=("127.0.0.1", NODE_IP, SERVICE_IP),
    ),
    Subject("kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
    Subject("admin", "admin", ("system:masters",)),
    Subject("controller-manager", "system:kube-controller-manager"),
    Subject("scheduler", "system:kube-scheduler"),
    Subject("proxy", "system:kube-proxy"),
    Subject("provisioner", "pitcrew:local-provisioner"),
    Subject("node", f"system:node:{NODE}", ("system:nodes",)),
)
CLIENTS = ("admin", "controller-manager", "scheduler", "proxy", "provisioner", "node")


def ensure(config: Config, issuer: Path) -> None:
    """Make the keys, certificates and kubeconfigs once; `issuer` is the pki program.

    The kubeconfig for this machine is written every time: its port may have changed.
    """
    if not config.pki.is_dir():
        _issue(config, issuer)
    text = kubeconfig(config.pki, "admin", f"https://127.0.0.1:{config.port}", config.name)
    write_private(config.kubeconfig, text)


def _issue(config: Config, issuer: Path) -> None:
    config.state.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="pki-", dir=config.state))
    try:
        request = temporary / "subjects.json"
        request.write_text(json.dumps([asdict(subject) for subject in SUBJECTS]))
        with request.open("rb") as stdin:
            run([issuer, "-dir", temporary], stdin=stdin)
        for client in CLIENTS:
            text = kubeconfig(temporary, client, f"https://{NODE_IP}:{API_PORT}", config.name)
            write_private(temporary / f"{client}.conf", text)
        os.replace(temporary, config.pki)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def kubeconfig(pki: Path, client: str, server: str, name: str) -> str:
    """A kubeconfig that carries its keys with it; JSON, which is YAML too."""

    def data(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": data("ca.crt")}
    user = {
        "client-certificate-data": data(f"{client}.crt"),
        "client-key-data": data(f"{client}.key"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": client, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": client}}],
        "current-context": name,
    }
    return json.dumps(document, indent=1) + "\n"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)
