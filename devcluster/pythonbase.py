"""Stand-ins for the Python base images, made of Debian packages: no registry is asked.

`build` has pip, a shell and what `RUN` needs; `slim` has Python and the libraries of binary wheels,
and nothing that a person or an intruder could type: no shell, no package manager.
"""

import io
import platform
import shutil
import tarfile
from pathlib import Path

from devcluster import archive
from devcluster.artefacts import Artefact, Say, digest
from devcluster.debian import SUITE, Mirror, certificates, download, merge_usr, unpack
from devcluster.process import run

REPOSITORY = "localhost/pitcrew-python"
BUILD_PACKAGES = (
    "ca-certificates",
    "coreutils",
    "dash",
    "findutils",
    "libc-bin",
    "python3-distutils",
    "python3-pip",
    "sed",
)
SLIM_PACKAGES = (
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libgomp1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsqlite3-0",
    "libssl3",
    "libstdc++6",
    "libuuid1",
    "media-types",
    "netbase",
    "python3-minimal",
    "python3.11-minimal",
    "tzdata",
    "zlib1g",
)
_RECIPE = "4"
# Left out of both, and modules whose libraries are left out of `slim`.
_WASTE = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/info",
    "usr/share/zoneinfo/right",
    "usr/share/zoneinfo/posix",
    "usr/share/pixmaps",
    "usr/share/applications",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/test",
)
_SLIM_WASTE = (
    "usr/share/perl5",
    "usr/share/python3",
    "usr/share/binfmts",
    "usr/share/gcc",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/aarch64-linux-gnu/gconv",
    "usr/sbin",
    "etc/init.d",
    "etc/cron.daily",
    *(f"usr/bin/{name}" for name in ("py3clean", "py3compile", "py3versions", "tzselect")),
)
_UNLINKED = ("_test*", "readline", "_curses", "_curses_panel", "_dbm", "_gdbm", "nis")
_ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
_GROUPS = "root:x:0:\nnogroup:x:65534:\n"
_SETTINGS = {
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
    "Cmd": ["python3"],
}


def build(mirror: Mirror) -> Artefact:
    """The image in which dependencies are installed."""
    return _artefact(mirror, "build", BUILD_PACKAGES, with_dependencies=True)


def slim(mirror: Mirror) -> Artefact:
    """The image that the product's images are laid on."""
    return _artefact(mirror, "slim", SLIM_PACKAGES, with_dependencies=False)


def reference(artefact: Artefact) -> str:
    """The image's name: its tag changes with everything that went into it."""
    return f"{REPOSITORY}:{artefact.name.removeprefix('python-')}-{artefact.key[:12]}"


def _artefact(
    mirror: Mirror, name: str, packages: tuple[str, ...], *, with_dependencies: bool
) -> Artefact:
    key = digest([_RECIPE, *packages, *_WASTE, *_SLIM_WASTE, *_UNLINKED, mirror.architecture])

    def make(into: Path, say: Say) -> None:
        root, fetched = into / "root", into / "apt"
        fetched.mkdir()
        debs = download(mirror, packages, fetched, say, with_dependencies=with_dependencies)
        unpack(debs, root, say)
        _finish(root, slim=not with_dependencies)
        say("image")
        _write_image(into / "image.tar", reference(artefact), root)
        shutil.rmtree(fetched)
        shutil.rmtree(root)

    artefact = Artefact(f"python-{name}", SUITE, key, make, "a base image from Debian's packages")
    return artefact


def _finish(root: Path, *, slim: bool) -> None:
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "etc/ssl/certs", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(_ACCOUNTS)
    (root / "etc/group").write_text(_GROUPS)
    (root / "etc/ssl/certs/ca-certificates.crt").write_text(certificates(root))
    _strip(root, slim=slim)
    # Compiled now, because containers run on a root that nobody may write to.
    compile_all = ["python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run(["chroot", root, *compile_all, "/usr/lib/python3.11"])


def _strip(root: Path, *, slim: bool) -> None:
    for name in (*_WASTE, *(_SLIM_WASTE if slim else ())):
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if slim:
        for name in _UNLINKED:
            for module in (root / "usr/lib/python3.11/lib-dynload").glob(f"{name}.*.so"):
                module.unlink()
        shutil.rmtree(root / "usr/share/ca-certificates")
    merge_usr(root)


def _write_image(into: Path, name: str, root: Path) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".", filter=_as_root)
    with tarfile.open(into, "w") as tar:
        architecture = archive.MACHINES[platform.machine()]
        archive.write(tar, name, layer.getvalue(), _SETTINGS, architecture)


def _as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing but content: owner and time would make equal trees differ."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    return info
