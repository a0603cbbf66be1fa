import pytest

from devcluster.cgroups import Hierarchy, plan
from devcluster.errors import DevclusterError

ONE_OWN = """\
5:name=systemd:/
4:memory:/caller/7
3:cpu,cpuacct:/
2:pids:/
0::/
"""
ONE_MOUNTS = """\
30 20 0:25 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs rw
31 30 0:26 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 30 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
34 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
35 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


def test_version_one_hangs_below_the_caller_in_every_hierarchy() -> None:
    assert plan(ONE_OWN, ONE_MOUNTS, "dev") == (
        Hierarchy("none,name=systemd", "/sys/fs/cgroup/systemd/pitcrew-dev"),
        Hierarchy("memory", "/sys/fs/cgroup/memory/caller/7/pitcrew-dev"),
        Hierarchy("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/pitcrew-dev"),
        Hierarchy("pids", "/sys/fs/cgroup/pids/pitcrew-dev"),
    )


def test_a_mount_of_a_part_of_the_tree_is_taken_into_account() -> None:
    mounts = ONE_MOUNTS.replace("0:26 / ", "0:26 /caller ")
    groups = {h.options: h.group for h in plan(ONE_OWN, mounts, "dev")}
    assert groups["memory"] == "/sys/fs/cgroup/memory/7/pitcrew-dev"


def test_version_two_hangs_at_the_root() -> None:
    mounts = "30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
    (only,) = plan("0::/user.slice/session-1.scope\n", mounts, "dev")
    assert only == Hierarchy("", "/sys/fs/cgroup/pitcrew-dev")
    assert only.version == 2


def test_no_cgroups_at_all_is_an_error_with_a_remedy() -> None:
    with pytest.raises(DevclusterError, match="mount -t cgroup2"):
        plan("0::/\n", "30 20 0:25 / / rw - ext4 /dev/vda rw\n", "dev")
