"""A control plane alone: etcd, API server and controllers, plain processes on 127.0.0.1.

There is no node: what a kubelet and a scheduler would do is up to whoever uses it. It needs no root and
no namespaces, is up in seconds, takes a fifth of a cluster's memory, and is gone with its block. For
tests and benchmarks of what only talks to the API server.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from devcluster import golang, pki
from devcluster.api import Api
from devcluster.artefacts import ensure
from devcluster.config import Config
from devcluster.errors import DevclusterError
from devcluster.process import wait_until
from devcluster.progress import note

_READY_SECONDS = 120
_END_SECONDS = 10
# Those that the objects of the operator need. Controllers of nodes would evict what has no kubelet.
_CONTROLLERS = (
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "replicaset-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
)


# All of it shares a few cores with what is tested or measured, so memory is spent rather than time:
# collecting garbage by Go's defaults takes the API server an eighth of its computing.
_GO = {"GOGC": "400", "GOMEMLIMIT": "2GiB"}


class Component:
    """One program, which also ends when this process does, however that ends."""

    def __init__(self, program: Path, flags: list[str], log: Path) -> None:
        self.name, self._log = program.name, log
        self._command = ["setpriv", "--pdeathsig", "KILL", "--", str(program), *flags]
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._log.parent,
                env={**os.environ, **_GO},
            )

    def alive(self) -> bool:
        """Does it run?"""
        return self.process.poll() is None

    def crash(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """SIGKILL, and start again; returns long before it answers."""
        self.crash()
        self.process = self._start()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        self.process.terminate()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.crash()

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:]


@dataclass(frozen=True)
class ControlPlane:
    """One that runs. `kubeconfig` is the administrator's."""

    kubeconfig: Path
    kubectl: Path
    port: int
    pki: Path
    etcd: Component
    apiserver: Component
    controllers: Component

    def wait(self) -> None:
        """Until the API server is ready. Raises DevclusterError where that does not come."""
        _await(self.apiserver, self.pki, self.port)


@contextmanager
def control_plane(config: Config, go: str) -> Iterator[ControlPlane]:
    """Run one for as long as the block lasts; `go` is the Go version that builds it, if need be.

    Raises:
        DevclusterError: it did not come up; the message carries the API server's last words.
    """
    programs = ensure(config, golang.kubernetes(go)) / "bin"
    issuer = ensure(config, golang.addons(go)) / "bin" / "pki"
    config.cache.joinpath("clusters").mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="plane-", dir=config.cache / "clusters"))
    own = replace(config, name=state.name, port=_free_port())
    try:
        pki.ensure(own, issuer)
        with ExitStack() as stack:
            yield _start(own, programs, stack)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _start(config: Config, programs: Path, stack: ExitStack) -> ControlPlane:
    config.logs.mkdir()

    def run(name: str, flags: list[str]) -> Component:
        component = Component(programs / name, flags, config.logs / f"{name}.log")
        stack.callback(component.stop)
        return component

    address = f"http://127.0.0.1:{_free_port()}"
    etcd = run("etcd", _etcd(config, address))
    apiserver = run("kube-apiserver", _apiserver(config, address))
    _await(apiserver, config.pki, config.port)
    controllers = run("kube-controller-manager", _controllers(config))
    kubectl = programs / "kubectl"
    return ControlPlane(
        config.kubeconfig, kubectl, config.port, config.pki, etcd, apiserver, controllers
    )


def _await(apiserver: Component, keys: Path, port: int) -> None:
    if not wait_until(Api(keys, port).ready, _READY_SECONDS, alive=apiserver.alive):
        raise DevclusterError(f"the API server did not come up:\n{apiserver.said()}")


def _etcd(config: Config, address: str) -> list[str]:
    peers = f"http://127.0.0.1:{_free_port()}"
    return [
        "--name=node",
        f"--data-dir={config.state / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={address}",
        f"--advertise-client-urls={address}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=node={peers}",
        "--log-level=warn",
    ]


def _apiserver(config: Config, etcd: str) -> list[str]:
    return [
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={config.port}",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={config.pki / 'apiserver.crt'}",
        f"--tls-private-key-file={config.pki / 'apiserver.key'}",
        f"--client-ca-file={config.pki / 'ca.crt'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={config.pki / 'sa.pub'}",
        f"--service-account-signing-key-file={config.pki / 'sa.key'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
    ]


def _controllers(config: Config) -> list[str]:
    server = f"https://127.0.0.1:{config.port}"
    kubeconfig = config.pki / "controllers.conf"
    text = pki.kubeconfig(config.pki, "controller-manager", server, config.name)
    pki.write_private(kubeconfig, text)
    return [
        f"--kubeconfig={kubeconfig}",
        f"--service-account-private-key-file={config.pki / 'sa.key'}",
        f"--root-ca-file={config.pki / 'ca.crt'}",
        f"--controllers={','.join(_CONTROLLERS)}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--secure-port=0",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve(config: Config, go: str) -> None:
    """Run one until interrupted."""
    with control_plane(config, go) as plane:
        note(f"export KUBECONFIG={plane.kubeconfig} PATH={plane.kubectl.parent}:$PATH")
        note("until Ctrl-C")
        plane.apiserver.process.wait()
