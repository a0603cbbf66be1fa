"""Where the node's resource accounting hangs: a child of our own group in every hierarchy.

A child of the caller's group, so that whatever limits the caller limits the cluster too.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from devcluster.errors import DevclusterError

PROC = Path("/proc")


@dataclass(frozen=True)
class Hierarchy:
    """One cgroup file system. `options` are its mount options inside the node, such as
    "memory", "cpu,cpuacct" or "none,name=systemd"; empty for version 2. `group` is ours in it.
    """

    options: str
    group: str

    @property
    def version(self) -> int:
        """1 or 2."""
        return 1 if self.options else 2


def plan(self_cgroup: str, mountinfo: str, name: str) -> tuple[Hierarchy, ...]:
    """The groups to make for a cluster, from /proc/self/cgroup and /proc/self/mountinfo.

    Version 1 is used wherever it holds the memory controller, version 2 otherwise.

    Raises:
        DevclusterError: neither version is mounted.
    """
    mounts = _mounts(mountinfo)
    entries = [line.split(":", 2) for line in self_cgroup.splitlines()]
    one = tuple(
        Hierarchy(_options(controllers), _group(mounts[controllers], path, name))
        for _, controllers, path in entries
        if controllers and controllers in mounts
    )
    if any("memory" in hierarchy.options.split(",") for hierarchy in one):
        return one
    if "" not in mounts:
        raise DevclusterError(
            "no cgroup file system is mounted: mount one, as "
            "`mount -t cgroup2 cgroup2 /sys/fs/cgroup` does"
        )
    # Only the root group may hold processes and hand controllers to children: hang there.
    return (Hierarchy("", _group(mounts[""], mounts[""][0], name)),)


def _mounts(mountinfo: str) -> dict[str, tuple[str, str]]:
    """Controllers (sorted as in /proc/self/cgroup; "" for version 2) to (root, mount point)."""
    found: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, point = left.split(" ")[3:5]
        if kind == "cgroup2":
            found.setdefault("", (root, point))
        elif kind == "cgroup":
            skip = {"rw", "ro", "xattr", "clone_children"}
            words = [w for w in options.split(",") if w not in skip and "agent=" not in w]
            found.setdefault(",".join(words), (root, point))
    return found


def _options(controllers: str) -> str:
    return f"none,{controllers}" if controllers.startswith("name=") else controllers


def _group(mount: tuple[str, str], path: str, name: str) -> str:
    root, point = mount
    inside = PurePosixPath(path)
    if inside.is_relative_to(root):
        inside = inside.relative_to(root)
    return str(PurePosixPath(point) / str(inside).lstrip("/") / f"pitcrew-{name}")


def current(name: str) -> tuple[Hierarchy, ...]:
    """The plan for this process, now."""
    own = (PROC / "self/cgroup").read_text()
    return plan(own, (PROC / "self/mountinfo").read_text(), name)


def create(hierarchies: Sequence[Hierarchy]) -> None:
    """Make the groups, ready to take processes."""
    for hierarchy in hierarchies:
        group = Path(hierarchy.group)
        if hierarchy.version == 2:
            _delegate(group.parent)
        group.mkdir(exist_ok=True)
        if "cpuset" in hierarchy.options.split(","):
            # A new version 1 cpuset is empty, and an empty one refuses processes.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((group.parent / file).read_text())
            (group / "cgroup.clone_children").write_text("1")


def enter(hierarchies: Sequence[Hierarchy], pid: int) -> None:
    """Move a process into the groups."""
    for hierarchy in hierarchies:
        (Path(hierarchy.group) / "cgroup.procs").write_text(str(pid))


def members(groups: Sequence[str]) -> set[int]:
    """Every process in the groups and in the groups below them."""
    found: set[int] = set()
    for group in groups:
        for file in Path(group).rglob("cgroup.procs"):
            try:
                found.update(int(line) for line in file.read_text().split())
            except OSError:
                continue  # the group went away between the listing and the reading
    return found - {0}


def remove(groups: Sequence[str], seconds: float = 10.0) -> list[str]:
    """Remove the groups, deepest first, and return those that still hold processes.

    The kernel lets go of dead processes a moment late; it is asked again for `seconds`.
    """
    deadline = time.monotonic() + seconds
    left = [group for group in groups if not _remove_tree(Path(group))]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [group for group in left if not _remove_tree(Path(group))]
    return left


def _remove_tree(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _delegate(group: Path) -> None:
    controllers = (group / "cgroup.controllers").read_text().split()
    wanted = [
        f"+{name}" for name in controllers if name in ("cpu", "cpuset", "io", "memory", "pids")
    ]
    (group / "cgroup.subtree_control").write_text(" ".join(wanted))
