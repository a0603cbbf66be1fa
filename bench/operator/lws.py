"""A yardstick: LeaderWorkerSet's operator, in Go, on the same control plane and machine as ours.

It has less to do (no builds, no status of its own beyond counts), so its figures are what can be reached,
not what should be. Its webhooks are off: they do not decide how many children there are.

    python bench/operator/lws.py --count 1000
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import yaml
from common import NAMESPACE, Row, View, memory, p99, show

from devcluster import config as configuration
from devcluster import golang
from devcluster.artefacts import ensure
from devcluster.controlplane import ControlPlane, control_plane
from devcluster.machine import go_version
from pitcrew_operator.kinds import SERVICE, Kind
from tests.controlplane.api import Admin, Object, install
from tests.controlplane.process import launch
from tests.controlplane.proxy import Proxy

LWS = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")
SETS = Kind("apps/v1", "StatefulSet", "statefulsets")
WRITES = ("POST", "PUT", "PATCH", "DELETE")
CONFIGURATION = """\
apiVersion: config.lws.x-k8s.io/v1alpha1
kind: Configuration
leaderElection: {leaderElect: false}
internalCertManagement: {enable: false}
metrics: {bindAddress: "0"}
health: {healthProbeBindAddress: "0"}
"""


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--calls", action="store_true", help="count requests, and time nothing")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.count, options.changes, options.calls))
    show(f"{options.count} LeaderWorkerSets", rows)
    return 0


async def measure(count: int, changes: int, calls_only: bool) -> list[Row]:
    """Everything, one after the other."""
    config = configuration.from_environment(os.environ, Path.home())
    made = ensure(config, golang.lws(go_version()))
    definitions = [yaml.safe_load(f.read_text()) for f in (made / "chart" / "crds").glob("*.yaml")]
    with tempfile.TemporaryDirectory() as name, control_plane(config, go_version()) as plane:
        async with Admin(plane, 64) as admin:
            await install(admin, definitions)
            await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            await _create(admin, count)
            program = made / "bin" / golang.LWS_PROGRAM
            return await _run(plane, Path(name), admin, program, count, changes, calls_only)


async def _create(admin: Admin, count: int) -> None:
    slots = asyncio.Semaphore(32)

    async def make(index: int) -> None:
        async with slots:
            await admin.create(LWS, NAMESPACE, _leader_worker_set(f"l{index}"))

    await asyncio.gather(*(make(index) for index in range(count)))


def _leader_worker_set(name: str) -> Object:
    """One pod, and what the webhook would fill in."""
    update = {"partition": 0, "maxUnavailable": 1, "maxSurge": 0}
    template = {"spec": {"containers": [{"name": "c", "image": "none"}]}}
    return {
        "apiVersion": LWS.api_version,
        "kind": LWS.kind,
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": update},
            "networkConfig": {"subdomainPolicy": "Shared"},
            "leaderWorkerTemplate": {
                "size": 1,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "workerTemplate": template,
            },
        },
    }


async def _run(
    plane: ControlPlane,
    folder: Path,
    admin: Admin,
    program: Path,
    count: int,
    changes: int,
    calls_only: bool,
) -> list[Row]:
    view = View(admin)
    works = [view.follow(kind, "") for kind in (LWS, SETS, SERVICE)]
    tasks = [asyncio.create_task(work) for work in works]
    try:
        if calls_only:
            return await _calls(plane, folder, view, program, count)
        return await _times(plane, folder, admin, view, program, count, changes)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _times(
    plane: ControlPlane,
    folder: Path,
    admin: Admin,
    view: View,
    program: Path,
    count: int,
    changes: int,
) -> list[Row]:
    async with _manager(folder, plane.kubeconfig, program) as process:
        began = time.monotonic()
        await view.until(lambda: view.count(SETS) == view.count(SERVICE) == count)
        children = time.monotonic() - began
        delays = await _changes(admin, view, count, changes)
        return [
            Row("start to all children", f"{children:.1f} s"),
            Row("spec change to child change, p50", f"{statistics.median(delays) * 1000:.0f} ms"),
            Row("spec change to child change, p99", f"{p99(delays) * 1000:.0f} ms"),
            Row("RSS", f"{memory(process.pid):.0f} MiB"),
        ]


async def _calls(
    plane: ControlPlane, folder: Path, view: View, program: Path, count: int
) -> list[Row]:
    """Through a proxy that counts, and that would spoil the times."""
    async with Proxy(plane) as proxy:
        kubeconfig = launch(folder, proxy.address).kubeconfig
        async with _manager(folder, kubeconfig, program):
            await view.until(lambda: view.count(SETS) == view.count(SERVICE) == count)
            await asyncio.sleep(5)  # its statuses follow
            calls = dict.fromkeys(("GET", *WRITES), 0)
            for (verb, _), number in proxy.requests.items():
                calls[verb] = calls.get(verb, 0) + number
            writes = sum(calls[verb] for verb in WRITES)
            return [
                Row("API calls by verb", ", ".join(f"{v} {n}" for v, n in sorted(calls.items()))),
                Row("writes per object", f"{writes / count:.1f}"),
            ]


@asynccontextmanager
async def _manager(
    folder: Path, kubeconfig: Path, program: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    file = folder / "configuration.yaml"
    file.write_text(CONFIGURATION)
    with (folder / "lws.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "--config", str(file), "--kubeconfig", str(kubeconfig)),
            *("--zap-log-level", "error", "--leader-elect=false"),
            env={**os.environ, "ENABLE_WEBHOOKS": "false"},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _changes(admin: Admin, view: View, count: int, changes: int) -> list[float]:
    chooser, delays = random.Random(7), []
    for _ in range(changes):
        name = f"l{chooser.randrange(count)}"
        replicas = 3 - int(view.objects[LWS][name]["spec"]["replicas"])

        def follows(name: str = name, replicas: int = replicas) -> bool:
            return bool(view.objects[SETS][name]["spec"]["replicas"] == replicas)

        began = time.monotonic()
        await admin.merge(LWS, NAMESPACE, name, {"spec": {"replicas": replicas}})
        await view.until(follows)
        delays.append(time.monotonic() - began)
    return delays


if __name__ == "__main__":
    sys.exit(main())
