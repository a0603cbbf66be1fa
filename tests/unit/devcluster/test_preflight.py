from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devcluster.config import Config
from devcluster.machine import NAMESPACES, PROGRAMS, Facts, file_system_of
from devcluster.preflight import parse_go, problems

CONFIG = Config(Path("/cache"))
GO = (1, 26, 0)
GOOD = Facts(
    system="Linux",
    machine="x86_64",
    uid=0,
    go="go1.26.8",
    programs=frozenset(PROGRAMS),
    namespaces=frozenset(NAMESPACES),
    file_systems=frozenset({"ext4", "overlay"}),
    cgroup_version=1,
    controllers=frozenset({"cpu", "cpuset", "memory", "pids", "devices"}),
    bridge_filter=True,
    veth=True,
    mirror="http://mirror.example/debian",
    keyring=True,
    cache_file_system="ext4",
    disk_free=10**10,
    port_free=True,
)


def judge(facts: Facts, *, needs_port: bool = True) -> list[str]:
    return list(problems(facts, CONFIG, GO, needs_port=needs_port))


def test_a_good_machine_has_no_problem() -> None:
    assert judge(GOOD) == []
    two = frozenset({"cpu", "cpuset", "io", "memory", "pids"})
    assert judge(replace(GOOD, cgroup_version=2, controllers=two)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"uid": 1000}, ("not root", "sudo")),
        ({"go": ""}, ("no Go", "1.26.0")),
        ({"go": "go1.25.3"}, ("go1.25.3 is too old", "1.26.0")),
        ({"programs": frozenset(PROGRAMS) - {"nsenter"}}, ("nsenter", "util-linux")),
        ({"programs": frozenset(PROGRAMS) - {"dpkg-deb"}}, ("dpkg-deb", "package dpkg")),
        ({"namespaces": frozenset(NAMESPACES) - {"cgroup"}}, ("cgroup namespaces", "kernel")),
        ({"file_systems": frozenset({"ext4"})}, ("overlay", "modprobe overlay")),
        ({"bridge_filter": False}, ("iptables", "modprobe br_netfilter")),
        ({"veth": False}, ("veth", "modprobe veth")),
        ({"cgroup_version": 0}, ("no cgroup file system", "mount -t cgroup2")),
        ({"controllers": frozenset({"cpu", "memory"})}, ("cpuset, devices, pids", "enable")),
        ({"mirror": None}, ("Debian archive", "PITCREW_DEBIAN_MIRROR")),
        ({"keyring": False}, ("keyring", "debian-archive-keyring")),
        ({"disk_free": 10**9}, ("1.0 GB free at /cache", "6 GB", "PITCREW_CACHE")),
        ({"cache_file_system": "overlay"}, ("/cache is on an overlay", "PITCREW_CACHE")),
        ({"port_free": False}, ("port 26443 is taken", "--port")),
    ],
)
def test_each_lack_is_one_line_with_its_remedy(
    change: dict[str, Any], words: tuple[str, ...]
) -> None:
    (line,) = judge(replace(GOOD, **change))
    assert "\n" not in line
    assert all(word in line for word in words)


def test_all_problems_are_told_at_once() -> None:
    assert len(judge(replace(GOOD, uid=1, go="", veth=False, keyring=False))) == 4


def test_another_system_is_told_nothing_else() -> None:
    (line,) = judge(replace(GOOD, system="Darwin", machine="arm64", uid=501, go=""))
    assert "Darwin on arm64" in line


def test_the_file_system_of_a_path_is_that_of_the_nearest_mount() -> None:
    mounts = """\
1 0 8:1 / / rw - overlay overlay rw
2 1 8:2 / /data rw,relatime shared:1 - ext4 /dev/sda2 rw
3 1 8:3 / /data/fast rw - xfs /dev/sda3 rw
4 1 8:4 / /data/fast rw - btrfs /dev/sda4 rw
"""
    kinds = {path: file_system_of(Path(path), mounts) for path in ("/x", "/data", "/data/fast/a")}
    assert kinds == {"/x": "overlay", "/data": "ext4", "/data/fast/a": "btrfs"}
    assert file_system_of(Path("/database"), mounts) == "overlay"


def test_a_running_cluster_holds_its_own_port() -> None:
    assert judge(replace(GOOD, port_free=False), needs_port=False) == []


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8", (1, 26, 8)), ("go1.27", (1, 27, 0)), ("go1.26rc1", (1, 26, 0)), ("", ())],
)
def test_go_versions_compare_as_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_go(text) == version
