import os
from pathlib import Path

import pytest

from pitcrew_runtime.execution.resources import free_memory, usable_cpus

GIB = 1 << 30


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9\nMemAvailable: 8388608 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 8 * GIB),
        (
            {
                "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{GIB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
            },
            2 * GIB - GIB // 2,
        ),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB // 4}\n",
            },
            GIB * 3 // 4,
        ),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 * GIB),
        ({"sys/fs/cgroup/memory.max": "1\n", "sys/fs/cgroup/memory.current": "5\n"}, 0),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], free: int) -> None:
    assert free_memory(machine(tmp_path, files)) == free


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    ],
)
def test_usable_cpus(tmp_path: Path, files: dict[str, str], quota: int | None) -> None:
    assert usable_cpus(machine(tmp_path, files)) == (quota or len(os.sched_getaffinity(0)))
