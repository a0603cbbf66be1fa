"""Whenever a build ends, by whatever end, the store shows whole engines and nothing else."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from pitcrew_builder.report import EXIT_RETRY, Failed, FailureReason, Succeeded, parse_outcome
from pitcrew_builder.store import STAGING, open_engine
from tests.unit.builder import checkpoints
from tests.unit.builder.interrupted import Ending, Order

ROOT = Path(__file__).parents[3]

Send = Callable[[Order], Ending]


@pytest.fixture(scope="module")
def send() -> Iterator[Send]:
    """The process that runs builds in children of its own."""
    command = [sys.executable, "-m", "tests.unit.builder.interrupted"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe) as process:
        orders, endings = process.stdin, process.stdout
        assert orders is not None
        assert endings is not None

        def order(order: Order) -> Ending:
            print(json.dumps(asdict(order)), file=orders, flush=True)
            return Ending(**json.loads(endings.readline()))

        yield order
        orders.close()


class Scene:
    """A checkpoint, a store, and builds."""

    def __init__(self, directory: Path, send: Send) -> None:
        self._send = send
        self._checkpoint = checkpoints.write(directory / "tiny")
        self._cache = directory / "cache"
        self._outcome = directory / "outcome.json"
        self.store = directory / "store"

    def build(self, number: int = 0, at: int = 0, file_limit: int = 0) -> Ending:
        self._outcome.unlink(missing_ok=True)
        what = ["build", "--model", self._checkpoint, "--store", self.store, "--cache", self._cache]
        told = ["--outcome", self._outcome, "--progress", "none"]
        arguments = [str(item) for item in (*what, *told)]
        return self._send(Order(arguments, str(self.store), number, at, file_limit))

    def engines(self) -> list[Path]:
        """Every directory that a reader would take for an engine."""
        return [path for path in self.store.glob("*/*/*/*") if STAGING not in path.parts]

    def files(self) -> list[Path]:
        return [path for path in self.store.rglob("*") if path.is_file()]

    def assert_sound(self) -> None:
        for engine in self.engines():
            open_engine(engine)

    def outcome(self) -> Succeeded | Failed | None:
        return parse_outcome(self._outcome.read_text())


@pytest.fixture(scope="module")
def touches(tmp_path_factory: pytest.TempPathFactory, send: Send) -> int:
    """How often an undisturbed build touches its store."""
    ending = Scene(tmp_path_factory.mktemp("count"), send).build()
    assert ending.code == 0
    return ending.touches


def test_a_build_killed_at_any_touch_leaves_nothing_to_see(
    touches: int, tmp_path: Path, send: Send
) -> None:
    for point in range(1, touches + 1):
        scene = Scene(tmp_path / str(point), send)
        assert scene.build(signal.SIGKILL, point).code == -signal.SIGKILL
        scene.assert_sound()
        assert scene.build().code == 0
        scene.assert_sound()
        assert len(scene.engines()) == 1
        assert list((scene.store / STAGING).iterdir()) == []


@pytest.mark.parametrize("draw", range(8))
def test_a_cancelled_build_cleans_up_after_itself(
    draw: int, touches: int, tmp_path: Path, send: Send
) -> None:
    """In its first half, that is: later the engine is published, and stays."""
    point = 1 + int((draw + random.Random(100 + draw).random()) * touches / 2 / 8)
    scene = Scene(tmp_path, send)
    ending = scene.build(signal.SIGTERM, point)
    outcome = scene.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.CANCELLED
    assert ending.code == EXIT_RETRY
    assert scene.files() == []


def test_a_full_disk_is_told_with_figures(tmp_path: Path, send: Send) -> None:
    scene = Scene(tmp_path, send)
    ending = scene.build(file_limit=16384)
    outcome = scene.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.DISK_FULL
    assert " are free" in outcome.message
    assert outcome.retryable
    assert ending.code == EXIT_RETRY
    assert scene.files() == []
