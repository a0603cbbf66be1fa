"""What `kill -9` leaves of a build: builds killed at random points, and what the store shows then.

Half of the points are touches of the store's files (each open, mkdir, rename, lock and removal is
one), half are moments, which also fall between them; those on object storage are moments. After
each kill every visible engine must be whole, the next build must succeed, and nothing may be left
of the first: no staging, no partial download, no temporary file, no stray object. The seed decides
the points.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pitcrew_builder.manifest import MANIFEST_NAME
from pitcrew_builder.s3.objects import Objects
from pitcrew_builder.store import STAGING, EngineStore, Store
from pitcrew_builder.store.s3 import GRACE, S3Store
from tests.unit.builder import checkpoints
from tests.unit.builder.interrupted import Ending, Order
from tests.unit.builder.s3_server import serve

Send = Callable[[Order], Ending]


class Place(Protocol):
    """A store that builds are killed over."""

    store: EngineStore

    def flags(self) -> list[str]:
        """How a build is told of it."""

    def strays(self) -> int:
        """Things in it that belong to no engine."""


class Volume:
    """A store on a volume."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: EngineStore = Store(root)

    def flags(self) -> list[str]:
        """How a build is told of it."""
        return ["--store", str(self.root)]

    def strays(self) -> int:
        """What lies under staging."""
        return len(list((self.root / STAGING).iterdir()))


class Bucket:
    """A store in object storage. Its clock is ahead: what may be cleaned some day, is."""

    def __init__(self, objects: Objects, work: Path) -> None:
        self._objects = objects
        later = GRACE + timedelta(hours=1)
        self.store: EngineStore = S3Store(objects, work, lambda: datetime.now(UTC) + later)

    def flags(self) -> list[str]:
        """How a build is told of it."""
        address = self._objects.address
        return ["--store", address.url, "--store-endpoint", str(address.endpoint)]

    def strays(self) -> int:
        """Objects that are neither a manifest nor one of its files."""
        self.store.clean()
        paths = [item.path for item in self._objects.list()]
        (kept,) = self.store.engines()
        files = {item.sha256 for item in kept.manifest.files} if kept.manifest else set()
        return sum(path.rpartition("/")[2] not in {MANIFEST_NAME, *files} for path in paths)


class Scene:
    """One checkpoint, one place, and builds."""

    def __init__(self, directory: Path, place: Place, send: Send) -> None:
        self.place = place
        self._send = send
        self._cache = directory / "cache"
        self._checkpoint = checkpoints.write(directory / "tiny", shards=3)

    def build(self, *, number: int = 0, at: int = 0, after: float = 0.0) -> Ending:
        """Run one build, or kill it."""
        what = ["build", "--model", str(self._checkpoint), "--progress", "none"]
        where = ["--cache", str(self._cache), *self.place.flags()]
        return self._send(Order([*what, *where], "store", number, at, after=after))

    def strays(self) -> int:
        """Whatever a build left that it should not have."""
        staged = self._cache / "staging"
        partial = list(self._cache.rglob("*.partial"))
        temporary = list(Path(os.environ["TMPDIR"]).iterdir())
        left = len(partial) + len(temporary) + len(list(staged.glob("*")))
        return self.place.strays() + left


def trial(scene: Scene, *, at: int = 0, after: float = 0.0) -> Counter[str]:
    """Kill a build, look, build again, look again."""
    killed = scene.build(number=signal.SIGKILL, at=at, after=after).code == -signal.SIGKILL
    seen = Counter(builds=1, killed=int(killed))
    for kept in scene.place.store.engines():
        scene.place.store.open(kept.path)
        seen["whole engine visible"] += 1
    again = scene.build()
    engines = list(scene.place.store.engines())
    for kept in engines:
        scene.place.store.open(kept.path)
    seen["next build failed"] += again.code != 0 or len(engines) != 1
    seen["strays"] += scene.strays()
    return seen


@contextmanager
def builder() -> Iterator[Send]:
    """The process that runs builds in children of its own."""
    command = [sys.executable, "-m", "tests.unit.builder.interrupted"]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe, stderr=quiet
    ) as process:
        orders, endings = process.stdin, process.stdout
        assert orders is not None
        assert endings is not None

        def send(order: Order) -> Ending:
            print(json.dumps(asdict(order)), file=orders, flush=True)
            return Ending(**json.loads(endings.readline()))

        yield send
        orders.close()


def undisturbed(scene: Scene) -> tuple[int, float]:
    """Touches and seconds of a build that nobody kills. The first order waits for the imports."""
    scene.build(number=signal.SIGKILL, at=1, after=60.0)
    began = time.monotonic()
    ending = scene.build()
    assert ending.code == 0, ending
    return ending.touches, time.monotonic() - began


def at_moments(
    scene: Callable[[str], Scene], kills: int, seconds: float, rng: random.Random
) -> Iterator[Counter[str]]:
    """Trials until that many were killed: a build may be over before its moment comes."""
    index = 0
    while kills:
        index += 1
        seen = trial(scene(f"moment{index}"), after=rng.uniform(0, seconds))
        kills -= seen["killed"]
        yield seen


def on_volumes(
    work: Path, send: Send, points: int, rng: random.Random
) -> Iterator[tuple[str, Counter[str]]]:
    """Kills over stores on a volume: at touches, then at moments."""

    def scene(name: str) -> Scene:
        directory = work / name
        return Scene(directory, Volume(directory / "store"), send)

    touches, seconds = undisturbed(scene("first"))
    for index in range(points // 2):
        yield "volume, at a touch", trial(scene(f"touch{index}"), at=rng.randint(1, touches))
    for seen in at_moments(scene, points - points // 2, seconds, rng):
        yield "volume, at a moment", seen


def on_buckets(
    work: Path, send: Send, points: int, rng: random.Random
) -> Iterator[tuple[str, Counter[str]]]:
    """Kills over stores in object storage, at moments."""
    with serve() as server:

        def scene(name: str) -> Scene:
            directory = work / "s3" / name
            return Scene(directory, Bucket(server.bucket(), directory / "other"), send)

        _, seconds = undisturbed(scene("first"))
        for seen in at_moments(scene, points, seconds, rng):
            yield "S3, at a moment", seen


def main() -> None:
    """Kill, look and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200, help="kills over stores on a volume")
    parser.add_argument("--s3-points", type=int, default=40, help="kills over object storage")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    sums: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as directory:
        os.environ["TMPDIR"] = f"{directory}/tmp"
        Path(directory, "tmp").mkdir()
        os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        with builder() as send:
            work = Path(directory)
            for kills, points in ((on_volumes, options.points), (on_buckets, options.s3_points)):
                for name, seen in kills(work, send, points, rng):
                    sums.setdefault(name, Counter()).update(seen)
    show(sums)
    if any(seen["next build failed"] or seen["strays"] for seen in sums.values()):
        raise SystemExit("a kill left something behind")


def show(sums: dict[str, Counter[str]]) -> None:
    """Print the table. A partial engine that is visible would have ended the run."""
    columns = ("builds", "killed", "whole engine visible", "next build failed", "strays")
    table = Table(title="Builds killed by SIGKILL; partial engines ever visible: 0")
    table.add_column("where")
    for column in columns:
        table.add_column(column, justify="right")
    for name, seen in sums.items():
        table.add_row(name, *(str(seen[column]) for column in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
