"""What the benchmarks of operators share: a view kept by watches, and a table."""

import asyncio
import contextlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pitcrew_operator.kinds import Kind
from tests.controlplane.api import Admin, Object

NAMESPACE = "bench"
LIMIT = 900.0


@dataclass
class View:
    """What there is of each kind, kept by watches: counting by listings would load the server."""

    admin: Admin
    objects: dict[Kind, dict[str, Object]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, kind: Kind, selector: str) -> None:
        """Until cancelled."""
        held = self.objects.setdefault(kind, {})
        while True:
            async for change, item in self.admin.watch(kind, NAMESPACE, selector):
                name = item["metadata"]["name"]
                if change == "DELETED":
                    held.pop(name, None)
                else:
                    held[name] = item
                self.changed.set()

    def count(self, kind: Kind) -> int:
        """How many there are."""
        return len(self.objects.get(kind, {}))

    async def until(self, look: Callable[[], bool]) -> None:
        """Until it holds. Raises TimeoutError."""
        async with asyncio.timeout(LIMIT):
            while not look():
                self.changed.clear()
                await self.changed.wait()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: str
    goal: str = ""


def show(what: str, rows: Sequence[Row]) -> None:
    """Print the table."""
    load = os.getloadavg()[0]
    title = f"{what} on {os.cpu_count()} × {machine()}, load {load:.0f}"
    table = Table("what", "measured", "goal", title=title)
    for row in rows:
        table.add_row(row.what, row.value, row.goal)
    Console(width=110).print(table)


def machine() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    return platform.processor() or platform.machine()


def memory(pid: int, what: str = "VmRSS") -> float:
    """Of a process, in MiB; VmHWM is the most there ever was."""
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def cpu(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def p99(values: list[float]) -> float:
    """The value that one of a hundred exceeds."""
    return sorted(values)[max(0, round(len(values) * 0.99) - 1)]
