"""What the control plane alone takes for the children of engines and deployments: the yardstick of scale.py.

There is no operator. The children of each pair are created straight away, as fast as the API server
takes them: a Job that resolves, a Job that builds, a Service and a Deployment, as the golden files say.
No status, no Event and no look is paid for, nothing waits for an engine: no operator can be faster on the
same machine.

    python bench/operator/floor.py --count 1000
"""

import argparse
import asyncio
import functools
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import yaml
from common import NAMESPACE, Row, View, show
from stand import others, world

from devcluster import config as configuration
from devcluster.controlplane import ControlPlane, control_plane
from devcluster.machine import go_version
from pitcrew_operator.kinds import JOB, SERVICE, WORKLOAD
from tests.controlplane.api import Admin, Object
from tests.unit.operator.goldens import GOLDEN

CHILDREN = {
    "resolve": (JOB, "resolve-hub"),
    "build": (JOB, "job-hub"),
    "service": (SERVICE, "service"),
    "workload": (WORKLOAD, "deployment"),
}
PARALLEL = 8


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    show(f"the children of {count} engines and {count} deployments", asyncio.run(measure(count)))
    return 0


async def measure(count: int) -> list[Row]:
    """Create them all; wait until every Job has ended and every Deployment is available."""
    config = configuration.from_environment(os.environ, Path.home())
    with control_plane(config, go_version()) as plane:
        async with Admin(plane, 64) as admin, world(admin) as view:
            return await _create(plane, admin, view, count)


async def _create(plane: ControlPlane, admin: Admin, view: View, count: int) -> list[Row]:
    before, began, slots = others(plane), time.monotonic(), asyncio.Semaphore(PARALLEL)

    async def make(index: int) -> None:
        for child in CHILDREN:
            async with slots:
                await _child(admin, child, index)

    await asyncio.gather(*(make(index) for index in range(count)))
    created = time.monotonic() - began
    await view.until(lambda: _settled(view) == 3 * count)
    settled = time.monotonic() - began
    spent = {name: seconds - before[name] for name, seconds in others(plane).items()}
    return [
        Row("start to all children", f"{created:.1f} s"),
        Row("start to all at rest", f"{settled:.1f} s"),
        Row("CPU until then", ", ".join(f"{name} {s:.0f} s" for name, s in spent.items())),
    ]


async def _child(admin: Admin, name: str, index: int) -> None:
    kind, golden = CHILDREN[name]
    document: Object = json.loads(_golden(golden).replace('"chat"', f'"chat-{index}"'))
    document["metadata"] |= {"name": f"{name}-{index}", "namespace": NAMESPACE}
    del document["metadata"]["ownerReferences"]
    if kind is WORKLOAD:
        document["spec"]["replicas"] = 1
    if kind is JOB:  # the golden files' account is not there, and pods of it would be refused
        document["spec"]["template"]["spec"].pop("serviceAccountName")
    await admin.create(kind, NAMESPACE, document)


@functools.cache
def _golden(name: str) -> str:
    """As JSON. It names its owner wherever labels and selectors meet."""
    return json.dumps(yaml.safe_load((GOLDEN / f"{name}.yaml").read_text()))


def _settled(view: View) -> int:
    ended = sum(bool(job.get("status", {}).get("succeeded")) for job in view.objects[JOB].values())
    workloads = view.objects[WORKLOAD].values()
    return ended + sum(bool(item.get("status", {}).get("availableReplicas")) for item in workloads)


if __name__ == "__main__":
    sys.exit(main())
