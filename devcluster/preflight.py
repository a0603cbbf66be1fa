"""Can this machine carry the cluster? A pure judgement over facts, one line for each problem."""

import re
from collections.abc import Iterator

from devcluster import machine
from devcluster.archive import MACHINES
from devcluster.config import Config
from devcluster.errors import PreflightError
from devcluster.golang import least_go
from devcluster.machine import NAMESPACES, PROGRAMS, Facts

DISK = 6 * 10**9
CONTROLLERS = {
    1: {"cpu", "cpuset", "memory", "pids", "devices"},
    2: {"cpu", "cpuset", "memory", "pids"},
}
_PACKAGES = {"apt-get": "apt", "dpkg-deb": "dpkg", "chroot": "coreutils", "sh": "dash"}
_UTIL_LINUX = {"mount", "nsenter", "pivot_root", "umount", "unshare"}


def check(config: Config, *, needs_port: bool) -> None:
    """Judge this machine, now; `needs_port` is False where the cluster holds its port already.

    Raises:
        PreflightError: with every problem, not only the first.
    """
    facts = machine.gather(config)
    found = list(problems(facts, config, least_go(), needs_port=needs_port))
    if found:
        raise PreflightError(found)


def problems(
    facts: Facts, config: Config, go: tuple[int, ...], *, needs_port: bool
) -> Iterator[str]:
    """What is missing and what to do about it; empty when the cluster can run.

    `go` is the least Go version that will do, such as (1, 26, 0).
    """
    if facts.system != "Linux" or facts.machine not in MACHINES:
        yield f"{facts.system} on {facts.machine}: the node needs Linux on {' or '.join(MACHINES)}"
        return
    if facts.uid != 0:
        yield "not root: namespaces, mounts and cgroups need it; run it with sudo -E"
    yield from _tools(facts, go)
    yield from _kernel(facts)
    yield from _cgroups(facts)
    yield from _room(facts, config, needs_port=needs_port)


def parse_go(version: str) -> tuple[int, ...]:
    """The numbers of "go1.26.8"; a release candidate counts as its release; () for no version."""
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _tools(facts: Facts, go: tuple[int, ...]) -> Iterator[str]:
    wanted = ".".join(map(str, go))
    if not facts.go:
        yield f"no Go: install Go {wanted} or newer and put it on PATH"
    elif parse_go(facts.go) < go:
        yield f"{facts.go} is too old: install Go {wanted} or newer"
    for program in sorted(set(PROGRAMS) - facts.programs):
        package = "util-linux" if program in _UTIL_LINUX else _PACKAGES.get(program, program)
        yield f"no program {program}: install the package {package}"
    if facts.mirror is None:
        yield "apt's sources name no Debian archive: set PITCREW_DEBIAN_MIRROR to one"
    if not facts.keyring:
        yield "no Debian keyring: install the package debian-archive-keyring"


def _kernel(facts: Facts) -> Iterator[str]:
    for name in sorted(set(NAMESPACES) - facts.namespaces):
        yield f"the kernel has no {name} namespaces: use a kernel that was built with them"
    if "overlay" not in facts.file_systems:
        yield "no overlay file system: `modprobe overlay`"
    if not facts.bridge_filter:
        yield "bridged packets do not pass iptables: `modprobe br_netfilter`"
    if not facts.veth:
        yield "no veth network links: `modprobe veth`"


def _cgroups(facts: Facts) -> Iterator[str]:
    if facts.cgroup_version == 0:
        yield "no cgroup file system is mounted: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`"
        return
    missing = CONTROLLERS[facts.cgroup_version] - facts.controllers
    if missing:
        yield (
            f"cgroup version {facts.cgroup_version} lacks {', '.join(sorted(missing))}: "
            "enable them for this group, or start the kernel with them"
        )


def _room(facts: Facts, config: Config, *, needs_port: bool) -> Iterator[str]:
    if facts.disk_free < DISK:
        yield (
            f"{facts.disk_free / 1e9:.1f} GB free at {config.cache}, {DISK / 1e9:.0f} GB needed: "
            "make room or set PITCREW_CACHE to another disk"
        )
    if facts.cache_file_system == "overlay":
        yield (
            f"{config.cache} is on an overlay file system, which cannot hold the layers of images: "
            "set PITCREW_CACHE to a directory of a disk, in a container to one of a volume"
        )
    if needs_port and not facts.port_free:
        yield f"port {config.port} is taken: choose another with --port or PITCREW_PORT"
