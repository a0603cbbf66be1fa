"""The node's file tree: containerd, runc, CNI, iptables and buildah from Debian, unpacked."""

import shutil
from pathlib import Path

from devcluster.artefacts import Artefact, Say, digest
from devcluster.debian import SUITE, Mirror, certificates, download, unpack
from devcluster.process import run

NODE_PACKAGES = (
    "bash",
    "buildah",
    "ca-certificates",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "coreutils",
    "dash",
    "findutils",
    "grep",
    "gzip",
    "iproute2",
    "iptables",
    "kmod",
    "libc-bin",
    "mount",
    "procps",
    "runc",
    "sed",
    "tar",
    "util-linux",
)
# Raise it when the code below changes what it makes of the same packages.
_RECIPE = "1"
_ACCOUNTS = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
_GROUPS = "root:x:0:\nshadow:x:42:\nnogroup:x:65534:\n"


def node(mirror: Mirror) -> Artefact:
    """A directory `root` with everything the node runs beside the Go binaries."""

    def make(into: Path, say: Say) -> None:
        fetched = into / "apt"
        fetched.mkdir()
        root = into / "root"
        unpack(download(mirror, NODE_PACKAGES, fetched, say), root, say)
        shutil.rmtree(fetched)
        _finish(root)

    key = digest([_RECIPE, *NODE_PACKAGES, SUITE, mirror.architecture])
    return Artefact("node", SUITE, key, make, "containerd, runc, CNI and buildah from Debian")


def _finish(root: Path) -> None:
    """Make what the packages' scripts would have made, and the mount points of the node."""
    for name in (
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "var/tmp",
        "root",
        "opt",
        "var/lib/containers",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text(_ACCOUNTS)
    (root / "etc/group").write_text(_GROUPS)
    for name in ("iptables", "iptables-save", "iptables-restore"):
        for family in (name, name.replace("ip", "ip6", 1)):
            (root / "usr/sbin" / family).symlink_to("xtables-nft-multi")
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text(certificates(root))
    for waste in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"):
        shutil.rmtree(root / waste, ignore_errors=True)
    run(["chroot", root, "/sbin/ldconfig"])
