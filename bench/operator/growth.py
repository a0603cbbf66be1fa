"""Whether the operator's memory grows: resources change, come and go for half an hour.

Every second one deployment is scaled, and every ten seconds an engine and its deployment are deleted
and made anew, so there are always as many. Full listings and the ends of watches come of themselves
every five minutes. The first fifth of the time is for warming up.

    python bench/operator/growth.py --count 200 --minutes 30
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from common import NAMESPACE, Row, View, show
from stand import Operator, create, create_pair, operating, ready_count, world

from devcluster import config as configuration
from devcluster.controlplane import ControlPlane, control_plane
from devcluster.machine import go_version
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE
from tests.controlplane.api import Admin

WARM = 0.2
TOLERATED = 0.03
EVERY = 10
"""Scalings between two replacements."""


@dataclass
class Tally:
    """What was done."""

    scaled: int = 0
    replaced: int = 0


def main() -> int:
    """Run and print; 1 where it grew."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=200, help="engines, and deployments")
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    tally, samples = asyncio.run(measure(options.count, options.minutes * 60))
    warm, end = samples[int(len(samples) * WARM)], samples[-1]
    minutes = [f"{each:.0f}" for each in samples[:: max(1, len(samples) // 10)]]
    rows = [
        Row("deployments scaled", str(tally.scaled)),
        Row("engines and deployments replaced", str(tally.replaced)),
        Row("RSS in MiB, at ten equal times", ", ".join(minutes)),
        Row("RSS when warm; at the end", f"{warm:.1f} MiB; {end:.1f} MiB"),
        Row("growth", f"{end / warm - 1:+.1%}", f"≤ {TOLERATED:.0%}"),
    ]
    show(f"{options.count} engines + deployments, {options.minutes:.0f} minutes", rows)
    return int(end > warm * (1 + TOLERATED))


async def measure(count: int, seconds: float) -> tuple[Tally, list[float]]:
    """What was done, and the memory of each second in MiB."""
    config = configuration.from_environment(os.environ, Path.home())
    with tempfile.TemporaryDirectory() as name, control_plane(config, go_version()) as plane:
        async with Admin(plane, 64) as admin, world(admin) as view:
            await create(admin, count)
            return await _operate(plane, Path(name), admin, view, count, seconds)


async def _operate(
    plane: ControlPlane, folder: Path, admin: Admin, view: View, count: int, seconds: float
) -> tuple[Tally, list[float]]:
    async with operating(plane, folder) as operator:
        await view.until(lambda: ready_count(view) == count)
        tally, samples = Tally(), [operator.memory()]
        watching = asyncio.create_task(_watch(operator, samples))
        await _churn(admin, view, count, time.monotonic() + seconds, tally)
        watching.cancel()
        return tally, samples


async def _watch(operator: Operator, samples: list[float]) -> None:
    while True:
        await asyncio.sleep(1.0)
        samples.append(operator.memory())


async def _churn(admin: Admin, view: View, count: int, until: float, tally: Tally) -> None:
    chooser = random.Random(7)
    while time.monotonic() < until:
        await asyncio.sleep(1.0)
        index = chooser.randrange(count)
        if tally.scaled % EVERY == EVERY - 1:
            await _replace(admin, view, index, count + tally.replaced, count)
            tally.replaced += 1
        name = chooser.choice(sorted(view.objects[DEPLOYMENT]))
        wanted = 3 - int(view.objects[DEPLOYMENT][name]["spec"]["replicas"])
        await admin.merge(DEPLOYMENT, NAMESPACE, name, {"spec": {"replicas": wanted}})
        tally.scaled += 1


async def _replace(admin: Admin, view: View, index: int, fresh: int, count: int) -> None:
    """The pair that came `index`-th of those that are left goes; a new one comes."""
    name = sorted(view.objects[DEPLOYMENT])[index % view.count(DEPLOYMENT)]
    await admin.delete(DEPLOYMENT, NAMESPACE, name)
    await admin.delete(ENGINE, NAMESPACE, f"e{name[1:]}")
    await create_pair(admin, fresh)
    await view.until(lambda: ready_count(view) == count)


if __name__ == "__main__":
    sys.exit(main())
