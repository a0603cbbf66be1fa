"""How the operator carries a thousand engines and a thousand deployments, on a real API server.

Nodes, schedulers and containers are simulated (tests/controlplane/kubelet.py); API server, etcd and
controllers are real and run on the same machine, as does this program, so the times hold for all of
them together. Prints a table with the machine's name on top.

    python bench/operator/scale.py --count 1000
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from common import LIMIT, NAMESPACE, Row, View, cpu, memory, p99, show

from devcluster import config as configuration
from devcluster.controlplane import ControlPlane, control_plane
from devcluster.machine import go_version
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, JOB, SERVICE, WORKLOAD, Kind
from tests.controlplane.api import Admin, Object, install
from tests.controlplane.conftest import DEFINITIONS
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.life import is_ready
from tests.controlplane.process import SETTINGS
from tests.property.operator.fake_builder import FakeBuilder

OURS = "app.kubernetes.io/managed-by=pitcrew"
WRITES = ("POST", "PUT", "PATCH", "DELETE")
PORT = 18765


@dataclass
class Operator:
    """One process of the operator."""

    process: asyncio.subprocess.Process
    began: float
    log: Path

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
            session.get(f"http://127.0.0.1:{PORT}/metrics") as answer,
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
    log = folder / "operator.log"
    environment = {**os.environ, **SETTINGS}
    environment |= {"KUBECONFIG": str(plane.kubeconfig), "PITCREW_HTTP_PORT": str(PORT)}
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
        yield Operator(process, time.monotonic(), log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000, help="engines, and deployments")
    parser.add_argument("--changes", type=int, default=200, help="changes of a spec, one by one")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds to look for growth")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.count, options.changes, options.idle))
    show(f"{options.count} engines + {options.count} deployments", rows)
    return 0


async def measure(count: int, changes: int, idle: float) -> list[Row]:
    """Everything, one after the other."""
    config = configuration.from_environment(os.environ, Path.home())
    with tempfile.TemporaryDirectory() as name, control_plane(config, go_version()) as plane:
        folder = Path(name)
        async with Admin(plane, 64) as admin, _world(admin) as view:
            await _create(admin, count)
            rows = await _first_time(plane, folder, view, admin, count, changes, idle)
            return rows + await _again(plane, folder, view, count)


@asynccontextmanager
async def _world(admin: Admin) -> AsyncIterator[View]:
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


async def _create(admin: Admin, count: int) -> None:
    """Each engine has a checkpoint of its own, so that no two share a build."""
    slots = asyncio.Semaphore(32)

    async def make(kind: Kind, name: str, spec: Object) -> None:
        document = {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        async with slots:
            await admin.create(kind, NAMESPACE, document)

    for index in range(count):
        model = {
            "model": {"huggingFace": {"repo": f"acme/tiny-{index}", "revision": f"{index:040}"}}
        }
        served = {"engineRef": {"name": f"e{index}"}, "replicas": 1}
        await asyncio.gather(
            make(ENGINE, f"e{index}", model), make(DEPLOYMENT, f"d{index}", served)
        )


async def _first_time(
    plane: ControlPlane,
    folder: Path,
    view: View,
    admin: Admin,
    count: int,
    changes: int,
    idle: float,
) -> list[Row]:
    async with operating(plane, folder) as operator:
        began, others = operator.began, _others(plane)
        await view.until(lambda: view.count(JOB) >= 1)
        first = time.monotonic() - began
        await view.until(lambda: view.count(WORKLOAD) == view.count(SERVICE) == count)
        children = time.monotonic() - began
        await view.until(lambda: _ready(view) == count)
        ready = time.monotonic() - began
        calls = await operator.calls()
        writes = sum(calls[verb] for verb in WRITES)
        loaded, computed = operator.memory(), operator.cpu()
        beside = {name: seconds - others[name] for name, seconds in _others(plane).items()}
        delays = await _changes(admin, view, count, changes)
        steady = operator.memory()
        await asyncio.sleep(idle)
        after = operator.memory()
        errors = await _errors(operator)
        return [
            Row("start to the first child", f"{first:.1f} s"),
            Row("start to all children", f"{children:.1f} s", "≤ 90 s"),
            Row("start to all Ready", f"{ready:.1f} s"),
            Row("the operator's own CPU until then", f"{computed:.1f} s"),
            Row("others' CPU", ", ".join(f"{name} {s:.0f} s" for name, s in beside.items())),
            Row("API calls by verb", ", ".join(f"{v} {n}" for v, n in sorted(calls.items()))),
            Row("writes per object life, events too", f"{writes / (2 * count):.1f}", "≤ 12"),
            Row("spec change to child change, p50", f"{statistics.median(delays) * 1000:.0f} ms"),
            Row("spec change to child change, p99", f"{p99(delays) * 1000:.0f} ms", "≤ 1000 ms"),
            Row("RSS when all are Ready", f"{loaded:.0f} MiB", "≤ 250 MiB"),
            Row("RSS, most ever", f"{operator.memory('VmHWM'):.0f} MiB"),
            Row(f"RSS growth in {idle:.0f} s idle", f"{after - steady:+.1f} MiB", "none"),
            Row("passes that failed and were repeated", errors),
        ]


def _others(plane: ControlPlane) -> dict[str, float]:
    """CPU seconds of all that shares the machine with the operator."""
    parts = (plane.etcd, plane.apiserver, plane.controllers)
    return {part.name: cpu(part.process.pid) for part in parts} | {"simulation": cpu(os.getpid())}


def _ready(view: View) -> int:
    return sum(is_ready(item) for item in view.objects.get(DEPLOYMENT, {}).values())


async def _errors(operator: Operator) -> str:
    errors = await operator.samples("reconcile_errors_total")
    told = (f"{labels['kind']} {labels['error']}: {int(value)}" for labels, value in errors)
    return ", ".join(told) or "none"


async def _changes(admin: Admin, view: View, count: int, changes: int) -> list[float]:
    """Scale one deployment after the other; seconds until its child says the same."""
    chooser = random.Random(7)
    delays = []
    for _ in range(changes):
        name = f"d{chooser.randrange(count)}"
        replicas = 3 - int(view.objects[DEPLOYMENT][name]["spec"].get("replicas", 1))

        def follows(name: str = name, replicas: int = replicas) -> bool:
            return any(
                item["metadata"]["labels"].get("pitcrew.dev/deployment") == name
                and item["spec"]["replicas"] == replicas
                for item in view.objects[WORKLOAD].values()
            )

        began = time.monotonic()
        await admin.merge(DEPLOYMENT, NAMESPACE, name, {"spec": {"replicas": replicas}})
        await view.until(follows)
        delays.append(time.monotonic() - began)
    await view.until(lambda: _ready(view) == count)
    return delays


async def _again(plane: ControlPlane, folder: Path, view: View, count: int) -> list[Row]:
    """A restart with everything there: each object is looked at, and nothing is written."""
    async with operating(plane, folder) as operator:
        await _until(lambda: _passes(operator, 2 * count))
        took = time.monotonic() - operator.began
        calls = await operator.calls()
        writes = sum(calls[verb] for verb in WRITES)
        return [
            Row("restart to all looked at", f"{took:.1f} s", "≤ 30 s"),
            Row("the operator's own CPU until then", f"{operator.cpu():.1f} s"),
            Row("writes after the restart", str(writes), "0"),
            Row("calls after the restart", ", ".join(f"{v} {n}" for v, n in sorted(calls.items()))),
            Row("RSS after the restart", f"{operator.memory():.0f} MiB"),
        ]


async def _until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await look():  # noqa: ASYNC110 (another process is asked)
            await asyncio.sleep(0.1)


async def _passes(operator: Operator, least: int) -> bool:
    try:
        passes = sum(value for _, value in await operator.samples("reconcile_seconds_count"))
        waiting = sum(value for _, value in await operator.samples("queue_depth"))
    except aiohttp.ClientError:
        return False
    return passes >= least and not waiting


if __name__ == "__main__":
    sys.exit(main())
