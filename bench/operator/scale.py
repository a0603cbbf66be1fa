"""How the operator carries a thousand engines and a thousand deployments, on a real API server.

Nodes, schedulers and containers are simulated (tests/controlplane/kubelet.py); API server, etcd and
controllers are real and run on the same machine, as does this program, so the times hold for all of
them together. Prints a table with the machine's name on top.

    python bench/operator/scale.py --count 1000
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from common import LIMIT, NAMESPACE, Row, View, p99, show
from stand import WRITES, Operator, create, operating, others, ready_count, world

from devcluster import config as configuration
from devcluster.controlplane import ControlPlane, control_plane
from devcluster.machine import go_version
from pitcrew_operator.kinds import DEPLOYMENT, JOB, SERVICE, WORKLOAD
from tests.controlplane.api import Admin

_QUIET_SECONDS = 3.0


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
        async with Admin(plane, 64) as admin, world(admin) as view:
            await create(admin, count)
            rows = await _first_time(plane, folder, view, admin, count, changes, idle)
            return rows + await _again(plane, folder, view, count)


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
        began, before = operator.began, others(plane)
        await view.until(lambda: view.count(JOB) >= 1)
        first = time.monotonic() - began
        await view.until(lambda: view.count(WORKLOAD) == view.count(SERVICE) == count)
        children = time.monotonic() - began
        await view.until(lambda: ready_count(view) == count)
        ready = time.monotonic() - began
        loaded, computed = operator.memory(), operator.cpu()
        beside = {name: seconds - before[name] for name, seconds in others(plane).items()}
        calls = await _written(operator)
        written = time.monotonic() - began
        writes = sum(calls[verb] for verb in WRITES)
        delays = await _changes(admin, view, count, changes)
        steady = operator.memory()
        await asyncio.sleep(idle)
        after = operator.memory()
        errors = await _errors(operator)
        return [
            Row("start to the first child", f"{first:.1f} s"),
            Row("start to all children", f"{children:.1f} s", "≤ 90 s"),
            Row("start to all Ready", f"{ready:.1f} s"),
            Row("start to the last Event", f"{written:.0f} s"),
            Row("the operator's own CPU until all are Ready", f"{computed:.1f} s"),
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


async def _written(operator: Operator) -> Counter[str]:
    """The calls until nothing is left to write: Events come last."""
    calls: Counter[str] = Counter()
    while calls != (calls := await operator.calls()):  # noqa: ASYNC110 (another process is asked)
        await asyncio.sleep(_QUIET_SECONDS)
    return calls


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
    await view.until(lambda: ready_count(view) == count)
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
