"""What this process may use of the machine: the cgroup's word before the machine's.

Paths are taken from a root directory, so that tests can show another machine.
"""

import os
from pathlib import Path

_UNLIMITED = 1 << 60
"""Version 1 of cgroups writes a number near 2^63 where there is no limit."""


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs by affinity and by the cgroup's quota, rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    quota = _quota_v2(root) or _quota_v1(root)
    return max(1, min(affinity, quota or affinity))


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that can still be taken: the least of MemAvailable and what the cgroup leaves."""
    available = _mem_available(root)
    left = _cgroup_left(root)
    return available if left is None else min(available, left)


def _quota_v2(root: Path) -> int | None:
    fields = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(fields) != 2 or fields[0] == "max":
        return None
    return -(-int(fields[0]) // int(fields[1]))


def _quota_v1(root: Path) -> int | None:
    quota = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota is None or not period or quota <= 0:
        return None
    return -(-quota // period)


def _mem_available(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_left(root: Path) -> int | None:
    """Limit less use, counting file cache that can be dropped as free."""
    base = root / "sys/fs/cgroup"
    for folder, limit_name, usage_name, cache_key in (
        (base, "memory.max", "memory.current", "inactive_file"),
        (base / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _number(folder / limit_name)
        if limit is None or limit >= _UNLIMITED:
            continue
        used = _number(folder / usage_name) or 0
        return max(0, limit - used + _stat(folder / "memory.stat", cache_key))
    return None


def _stat(path: Path, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    try:
        return int(_read(path))
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
