"""What the benchmarks of our operator stand on: the operator as a process, a simulated world, resources."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from common import NAMESPACE, View, cpu, memory
from prometheus_client.parser import text_string_to_metric_families

from devcluster.controlplane import ControlPlane
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, JOB, SERVICE, WORKLOAD, Kind
from tests.controlplane.api import Admin, Object, install
from tests.controlplane.conftest import DEFINITIONS
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.life import is_ready
from tests.controlplane.process import SETTINGS
from tests.property.operator.fake_builder import FakeBuilder

OURS = "app.kubernetes.io/managed-by=pitcrew"
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Operator:
    """One process of the operator."""

    process: asyncio.subprocess.Process
    began: float
    port: int

    def memory(self, what: str = "VmRSS") -> float:
        """MiB; VmHWM is the most there ever was."""
        return memory(self.process.pid, what)

    def cpu(self) -> float:
        """Seconds that it computed: they say more than times on a machine with other work."""
        return cpu(self.process.pid)

    async def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of one of its metrics, now."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
        ):
            text = await answer.text()
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"pitcrew_operator_{name}"
        ]

    async def calls(self) -> Counter[str]:
        """Requests by verb."""
        found: Counter[str] = Counter()
        for labels, value in await self.samples("api_requests_total"):
            found[labels["verb"]] += int(value)
        return found


@asynccontextmanager
async def operating(plane: ControlPlane, folder: Path) -> AsyncIterator[Operator]:
    """The operator, as in its image but for the lease."""
    log, port = folder / "operator.log", _free_port()
    environment = {**os.environ, **SETTINGS}
    environment |= {"KUBECONFIG": str(plane.kubeconfig), "PITCREW_HTTP_PORT": str(port)}
    environment |= {"PITCREW_LOG_LEVEL": "WARNING"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    if not (folder / "compiled").exists():  # as it is in the image
        load = (sys.executable, "-c", "import pitcrew_operator.app")
        await (await asyncio.create_subprocess_exec(*load, env=environment)).wait()
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pitcrew_operator", "run"), env=environment, stderr=file
        )
    try:
        yield Operator(process, time.monotonic(), port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


def others(plane: ControlPlane) -> dict[str, float]:
    """CPU seconds of all that shares the machine with the operator."""
    parts = (plane.etcd, plane.apiserver, plane.controllers)
    return {part.name: cpu(part.process.pid) for part in parts} | {"simulation": cpu(os.getpid())}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def world(admin: Admin) -> AsyncIterator[View]:
    """Simulated nodes, and a view of what there is."""
    await install(admin, DEFINITIONS)
    await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    view = View(admin)
    works = [Kubelet(admin, FakeBuilder(), 24).run(), view.follow(DEPLOYMENT, "")]
    works += [view.follow(kind, OURS) for kind in (JOB, WORKLOAD, SERVICE)]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield view
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def create(admin: Admin, count: int) -> None:
    """Each engine has a checkpoint of its own, so that no two share a build."""
    slots = asyncio.Semaphore(32)

    async def make(index: int) -> None:
        async with slots:
            await create_pair(admin, index)

    await asyncio.gather(*(make(index) for index in range(count)))


async def create_pair(admin: Admin, index: int) -> None:
    """One engine and its deployment."""
    source = {"repo": f"acme/tiny-{index}", "revision": f"{index:040}"}
    served = {"engineRef": {"name": f"e{index}"}, "replicas": 1}
    await _make(admin, ENGINE, f"e{index}", {"model": {"huggingFace": source}})
    await _make(admin, DEPLOYMENT, f"d{index}", served)


async def _make(admin: Admin, kind: Kind, name: str, spec: Object) -> None:
    document = {"apiVersion": kind.api_version, "kind": kind.kind, "spec": spec}
    await admin.create(kind, NAMESPACE, document | {"metadata": {"name": name}})


def ready_count(view: View) -> int:
    """How many deployments are Ready."""
    return sum(is_ready(item) for item in view.objects.get(DEPLOYMENT, {}).values())
