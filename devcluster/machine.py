"""Facts about this machine, gathered without judging them."""

import os
import platform
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from devcluster import debian
from devcluster.archive import MACHINES
from devcluster.config import DATA, Config
from devcluster.debian import Mirror
from devcluster.errors import DevclusterError

PROGRAMS = (
    "apt-get",
    "bash",
    "chroot",
    "dpkg-deb",
    "mount",
    "nsenter",
    "pivot_root",
    "sh",
    "tar",
    "umount",
    "unshare",
)
NAMESPACES = ("mnt", "net", "pid", "uts", "ipc", "cgroup")


@dataclass(frozen=True)
class Facts:
    """What the checks look at; `go` is "go1.26.8" or empty, `disk_free` is in bytes.

    `controllers` are the cgroup controllers the node could use and `cgroup_version` is 1, 2 or 0.
    """

    system: str
    machine: str
    uid: int
    go: str
    programs: frozenset[str]
    namespaces: frozenset[str]
    file_systems: frozenset[str]
    cgroup_version: int
    controllers: frozenset[str]
    bridge_filter: bool
    veth: bool
    mirror: str | None
    keyring: bool
    cache_file_system: str
    disk_free: int
    port_free: bool


def gather(config: Config) -> Facts:
    """Look at this machine; changes nothing."""
    version, controllers = cgroup_controllers()
    return Facts(
        system=platform.system(),
        machine=platform.machine(),
        uid=os.getuid(),
        go=_go(),
        programs=frozenset(name for name in PROGRAMS if shutil.which(name)),
        namespaces=frozenset(n for n in NAMESPACES if Path(f"/proc/self/ns/{n}").exists()),
        file_systems=_file_systems(),
        cgroup_version=version,
        controllers=controllers,
        bridge_filter=Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
        veth=_veth(),
        mirror=debian.find_mirror(os.environ, debian.read_sources()),
        keyring=debian.KEYRING.is_file(),
        cache_file_system=file_system_of(config.cache, Path("/proc/self/mountinfo").read_text()),
        disk_free=_disk_free(config.cache),
        port_free=_port_free(config.port),
    )


def cgroup_controllers() -> tuple[int, frozenset[str]]:
    """The cgroup version that holds the memory controller, and all controllers it offers."""
    own = Path("/proc/self/cgroup").read_text().splitlines()
    one = {c for line in own for c in line.split(":", 2)[1].split(",") if c}
    if "memory" in one:
        return 1, frozenset(one)
    two = Path("/sys/fs/cgroup/cgroup.controllers")
    return (2, frozenset(two.read_text().split())) if two.is_file() else (0, frozenset())


def go_version() -> str:
    """The version of the Go that builds, such as go1.26.8; "" is a fact, not an error."""
    return _go()


def mirror() -> Mirror:
    """The Debian archive to fetch from.

    Raises:
        DevclusterError: apt's sources name none.
    """
    uri = debian.find_mirror(os.environ, debian.read_sources())
    if not uri:
        raise DevclusterError(
            "apt's sources name no Debian archive; set PITCREW_DEBIAN_MIRROR to one, "
            "such as http://mirror.example/debian"
        )
    return Mirror(uri, MACHINES[platform.machine()])


def _go() -> str:
    # Inside the module first: there Go answers with the newer toolchain that it would fetch for it.
    # Where it may not, it refuses to answer there; elsewhere it tells its own version.
    for directory in (DATA / "go" / "kubernetes", Path("/")):
        try:
            command = ["go", "env", "GOVERSION"]
            done = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            continue
    return ""


def _file_systems() -> frozenset[str]:
    text = Path("/proc/filesystems").read_text()
    found = {line.split()[-1] for line in text.splitlines() if line}
    if "overlay" not in found and _succeeds("modprobe", "--dry-run", "--quiet", "overlay"):
        found.add("overlay")  # the kernel loads it at the first mount
    return frozenset(found)


def _veth() -> bool:
    """Can links be made in pairs? Tried in a network that is gone at once; a machine without the
    program `ip` gets the benefit of the doubt, for the node brings its own.
    """
    add = ("ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
    return not shutil.which("ip") or os.getuid() != 0 or _succeeds("unshare", "--net", *add)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def file_system_of(path: Path, mountinfo: str) -> str:
    """The kind of file system that holds `path`, such as ext4, from /proc/self/mountinfo."""
    mounts = (line.partition(" - ") for line in mountinfo.splitlines())
    points = [(Path(left.split(" ")[4]), right.split(" ")[0]) for left, _, right in mounts]
    # The longest mount point that leads to the path; of two on one point the later covers the other.
    over = [
        (len(point.parts), i, kind)
        for i, (point, kind) in enumerate(points)
        if path.is_relative_to(point)
    ]
    return max(over)[2] if over else ""


def _disk_free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _port_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
