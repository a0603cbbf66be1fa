"""The operator is killed between any two writes of a whole life, on a real API server.

Here it lives for one write at a time: each write is done, then the process is killed before it hears of
it, and a new one goes on. `PITCREW_CRASH_SWEEP=1` leads one more life for each write, with a kill after
that one alone; 10 does so for every tenth write.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devcluster.controlplane import ControlPlane
from pitcrew_operator.kinds import JOB
from pitcrew_operator.views import COMPONENT_LABEL
from tests.controlplane.api import Admin
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.life import Life, differences
from tests.controlplane.process import OperatorProcess, launch
from tests.controlplane.proxy import Cut, Proxy
from tests.property.operator.fake_builder import FakeBuilder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


class Supervisor:
    """Starts the operator again whenever it has been killed, as a kubelet would."""

    def __init__(self, directory: Path, proxy: Proxy) -> None:
        directory.mkdir()
        self._how, self._proxy = launch(directory, proxy.address), proxy
        self._lock, self._is_over = asyncio.Lock(), False
        self._process = OperatorProcess(self._how)
        self._process.__enter__()

    @property
    def kills(self) -> int:
        """How often it was killed."""
        return self._proxy.life

    @property
    def is_running(self) -> bool:
        """Whether the present process lives."""
        return self._process.is_running

    async def kill(self, life: int) -> None:
        """SIGKILL to the process of that number, and a new one."""
        async with self._lock:
            if self._is_over or life != self._proxy.life:
                return
            self._proxy.life += 1
            await asyncio.to_thread(self._process.__exit__, None, None, None)
            self._process = OperatorProcess(self._how)
            await asyncio.to_thread(self._process.__enter__)

    async def stop(self) -> None:
        """The last SIGKILL."""
        async with self._lock:
            self._is_over = True
            await asyncio.to_thread(self._process.__exit__, None, None, None)


@asynccontextmanager
async def going(
    plane: ControlPlane, admin: Admin, directory: Path, cuts: Cut | None
) -> AsyncIterator[tuple[FakeBuilder, Supervisor, Proxy]]:
    """Simulated nodes, and an operator behind a proxy that may cut."""
    builder = FakeBuilder()
    nodes = asyncio.create_task(Kubelet(admin, builder).run())
    async with Proxy(plane) as proxy:
        supervisor = Supervisor(directory, proxy)

        async def cut(write: int) -> bool:
            life = proxy.life
            if cuts is None or not await cuts(write):
                return False
            await supervisor.kill(life)
            return True

        proxy.cut = cut
        try:
            yield builder, supervisor, proxy
        finally:
            await supervisor.stop()
            nodes.cancel()
            await asyncio.gather(nodes, return_exceptions=True)


class Jobs:
    """Every Job that ever was, in a namespace."""

    def __init__(self, admin: Admin, namespace: str) -> None:
        self._admin, self._namespace = admin, namespace
        self._seen: dict[str, tuple[str, str]] = {}

    async def follow(self) -> None:
        while True:
            async for _, job in self._admin.watch(JOB, self._namespace):
                metadata = job["metadata"]
                component = metadata["labels"].get(COMPONENT_LABEL, "")
                self._seen[metadata["uid"]] = component, metadata["name"]

    @property
    def counts(self) -> Counter[str]:
        """How many of each component."""
        return Counter(component for component, _ in self._seen.values())

    @property
    def repeated(self) -> list[str]:
        """Builds that were begun twice."""
        names = Counter(name for component, name in self._seen.values() if component == "build")
        return [name for name, count in names.items() if count > 1]


async def lead(
    plane: ControlPlane, admin: Admin, directory: Path, namespace: str, cuts: Cut | None = None
) -> tuple[dict[str, Any], int, int]:
    """One life: the picture before its end, how many writes it took, and how many kills."""
    async with going(plane, admin, directory, cuts) as (builder, supervisor, proxy):
        jobs = Jobs(admin, namespace)
        following = asyncio.create_task(jobs.follow())
        seen = await Life(admin, builder, namespace).live()
        following.cancel()
        assert supervisor.is_running
        assert not jobs.repeated
        assert jobs.counts["build"] == 2
        return seen, proxy.writes, supervisor.kills


async def test_operator_that_is_killed_after_every_write_leads_to_the_same_end(
    plane: ControlPlane, admin: Admin, tmp_path: Path
) -> None:
    quiet, writes, _ = await lead(plane, admin, tmp_path / "quiet", "quiet")

    async def always(_: int) -> bool:
        return True

    killed, _, kills = await lead(plane, admin, tmp_path / "killed", "killed", always)
    assert not differences(killed, quiet)
    assert kills >= 20
    print(f"\n{writes} writes in an undisturbed life; {kills} kills in the other")
    if stride := int(os.environ.get("PITCREW_CRASH_SWEEP", "0")):
        await _sweep(plane, admin, tmp_path, quiet, range(1, writes + 1, stride))


async def _sweep(
    plane: ControlPlane, admin: Admin, directory: Path, quiet: dict[str, Any], indexes: range
) -> None:
    for index in indexes:

        async def at_index(write: int, chosen: int = index) -> bool:
            return write == chosen

        seen, _, kills = await lead(
            plane, admin, directory / f"kill-{index}", f"kill-{index}", at_index
        )
        assert not differences(seen, quiet), f"killed after write {index}"
        told = "the same end" if kills else "a life with fewer writes, and the same end"
        print(f"killed after write {index}: {told}")
