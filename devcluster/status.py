"""What runs, how much memory it takes and whether it serves."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster import node
from devcluster.api import Api
from devcluster.cluster import dns_ready, node_ready
from devcluster.config import Config
from devcluster.record import Record

SHOWN = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "containerd",
    "provisioner",
)


@dataclass(frozen=True)
class Row:
    """One component; memory in bytes. `pss` counts a page shared by n processes as 1/n."""

    name: str
    pid: int
    rss: int
    pss: int
    uptime: float


@dataclass(frozen=True)
class Status:
    """The cluster at one moment; a cluster that is not up has no rows and answers nothing."""

    rows: tuple[Row, ...]
    api: bool
    node: bool
    dns: bool

    @property
    def healthy(self) -> bool:
        """Would a person call it up?"""
        return self.api and self.node and self.dns


def look(config: Config) -> Status:
    """Look at the cluster, without changing anything."""
    found = node.running(config)
    if not found:
        return Status((), api=False, node=False, dns=False)
    api = Api(config.pki, found.port)
    serving = api.ready()
    return Status(
        rows=tuple(_rows(found)),
        api=serving,
        node=serving and node_ready(api, found.started),
        dns=serving and dns_ready(api),
    )


def render(status: Status) -> str:
    """The table for a terminal."""
    if not status.rows:
        return "not running; start it: python3 -m devcluster up"
    lines = [f"{'COMPONENT':<26}{'PID':>8}{'RSS':>10}{'PSS':>10}{'UPTIME':>10}"]
    lines += [_line(row) for row in status.rows]
    lines.append(_total(status.rows))
    words = {True: "yes", False: "NO"}
    answers = (("API reachable", status.api), ("node Ready", status.node), ("DNS", status.dns))
    return "\n".join([*lines, *(f"{name:<26}{words[value]}" for name, value in answers)])


def parse_memory(smaps_rollup: str) -> tuple[int, int]:
    """RSS and PSS in bytes from a process's /proc/PID/smaps_rollup."""
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in smaps_rollup.splitlines()
        if line.startswith(("Rss:", "Pss:"))
    }
    return sizes.get("Rss", 0), sizes.get("Pss", 0)


def _line(row: Row) -> str:
    memory = f"{row.rss / 2**20:>6.0f} MiB{row.pss / 2**20:>6.0f} MiB"
    return f"{row.name:<26}{row.pid:>8}{memory}{row.uptime:>8.0f} s"


def _total(rows: Sequence[Row]) -> str:
    rss, pss = sum(row.rss for row in rows), sum(row.pss for row in rows)
    return f"{'total':<34}{rss / 2**20:>6.0f} MiB{pss / 2**20:>6.0f} MiB"


def _rows(record: Record) -> Iterator[Row]:
    init = record.init()
    if init is None:
        return
    hertz = os.sysconf("SC_CLK_TCK")
    for pid in _descendants(init):
        base = Path(f"/proc/{pid}")
        try:
            name = Path((base / "cmdline").read_bytes().split(b"\0")[0].decode()).name
            if name in SHOWN:
                began = int((base / "stat").read_text().rpartition(")")[2].split()[19]) / hertz
                uptime = time.clock_gettime(time.CLOCK_BOOTTIME) - began
                yield Row(name, pid, *parse_memory((base / "smaps_rollup").read_text()), uptime)
        except OSError:
            continue  # it ended while we looked


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)
