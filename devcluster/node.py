"""Starting and ending the node: one process tree in namespaces and cgroups of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from devcluster import cgroups, record
from devcluster.config import DATA, NODE, NODE_IP, REPO, Config
from devcluster.errors import DevclusterError, NotRunning
from devcluster.process import Process, run, wait_until
from devcluster.record import Record

KEEP = "keep"
_NAMESPACES = ("--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup")
_PATH = "/opt/kubernetes:/opt/addons:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Parts:
    """The artefacts that a node is made of."""

    rootfs: Path
    kubernetes: Path
    addons: Path


def record_file(config: Config) -> Path:
    """Where the running cluster is recorded."""
    return config.state / "record.json"


def running(config: Config) -> Record | None:
    """The cluster's record, if its node runs."""
    found = record.load(record_file(config))
    return found if found and found.holder.alive() and found.init() else None


def require(config: Config) -> Record:
    """The cluster's record.

    Raises:
        NotRunning: there is no running node.
    """
    found = running(config)
    if not found:
        raise NotRunning(config.name)
    return found


def start(config: Config, parts: Parts) -> Record:
    """Start the node's processes; returns at once, long before anything answers.

    Raises:
        DevclusterError: the namespaces or cgroups cannot be made.
    """
    fresh = not (config.data / KEEP).exists()
    if fresh:
        shutil.rmtree(config.data, ignore_errors=True)
    (config.data / KEEP).unlink(missing_ok=True)
    shutil.rmtree(config.logs, ignore_errors=True)
    for path in (config.logs, config.containerd, config.state / "root"):
        path.mkdir(parents=True, exist_ok=True)
    hierarchies = cgroups.current(config.name)
    cgroups.create(hierarchies)
    environment = {
        "ROOTFS": str(parts.rootfs / "root"),
        "KUBERNETES": str(parts.kubernetes),
        "ADDONS": str(parts.addons),
        "STATE": str(config.state),
        "CONF": str(DATA / "node"),
        "CGROUPS": " ".join(h.options for h in hierarchies if h.version == 1),
        "NODE": NODE,
        "NODE_IP": NODE_IP,
        "FRESH": "1" if fresh else "0",
    }
    with (config.logs / "init.log").open("wb") as log:
        return _launch(config, parts, hierarchies, environment, log)


def _launch(
    config: Config,
    parts: Parts,
    hierarchies: Sequence[cgroups.Hierarchy],
    environment: dict[str, str],
    log: IO[bytes],
) -> Record:
    """Start the holder, which waits for a line, so that it is recorded and in its cgroups first.

    Should this process die before the line is sent, the holder reads an end of file and ends too.
    """
    unshare = f"unshare {' '.join(_NAMESPACES)} --fork --kill-child --propagation private"
    script = f'read -r go && exec {unshare} bash "$CONF/init.sh" < /dev/null'
    holder = subprocess.Popen(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd="/",
        start_new_session=True,
    )
    started = Record(
        holder=Process.of(holder.pid),
        groups=tuple(h.group for h in hierarchies),
        port=config.port,
        started=time.time(),
        kubernetes=str(parts.kubernetes),
        addons=str(parts.addons),
    )
    record.save(record_file(config), started)
    cgroups.enter(hierarchies, holder.pid)
    assert holder.stdin
    holder.stdin.write(b"go\n")
    holder.stdin.close()
    if not wait_until(
        lambda: started.init() is not None, 5, every=0.01, alive=started.holder.alive
    ):
        raise DevclusterError(f"the node did not start:\n{tail(config, 'init')}")
    holder.returncode = 0  # it stays when we go; do not warn that nobody waited for it
    return started


def open_way_in(config: Config, started: Record) -> Record:
    """Forward the port to the API server, unless that is done already."""
    if started.forward and started.forward.alive():
        return started
    with (config.logs / "forward.log").open("wb") as log:
        forward = subprocess.Popen(
            [sys.executable, "-m", "devcluster.forward", str(started.port), str(started.init())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=REPO,
            start_new_session=True,
        )
    opened = started.with_forward(Process.of(forward.pid))
    record.save(record_file(config), opened)
    forward.returncode = 0  # as above
    return opened


def stop(config: Config) -> list[str]:
    """End every process of the cluster and remove its cgroups; works on half-started ones too.

    Returns:
        What could not be removed; empty as a rule.
    """
    found = record.load(record_file(config))
    groups = found.groups if found else tuple(h.group for h in cgroups.current(config.name))
    if found:
        for process in (found.forward, found.holder):
            if process:
                process.kill()
    # The namespaces' processes die with the first of them; whoever else is in our groups is ours.
    if not wait_until(lambda: not cgroups.members(groups), 3, every=0.05):
        for pid in cgroups.members(groups):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not cgroups.members(groups), 5, every=0.05)
    left = cgroups.remove(groups)
    if not left:
        record_file(config).unlink(missing_ok=True)
    return left


def inside(config: Config, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in the node's namespaces.

    Raises:
        NotRunning: there is no running node.
    """
    environment = [f"PATH={_PATH}", "KUBECONFIG=/etc/kubernetes/pki/admin.conf", "HOME=/root"]
    enter = ["nsenter", "-t", str(require(config).init()), "-m", "-n", "-u", "-i", "-p", "-C"]
    return [*enter, "--", "/usr/bin/env", "-i", *environment, *command]


def execute(config: Config, command: Sequence[str], stdin: IO[bytes] | None = None) -> str:
    """Run a command in the node to its end and return what it printed.

    Raises:
        CommandError: its exit code is not 0.
    """
    return run(inside(config, command), stdin=stdin)


def tail(config: Config, component: str, lines: int = 15) -> str:
    """The end of a component's log."""
    file = config.logs / f"{component}.log"
    text = file.read_text(errors="replace") if file.exists() else ""
    return "\n".join(text.splitlines()[-lines:])
