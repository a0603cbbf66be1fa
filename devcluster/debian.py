"""Debian packages without installing any: apt resolves and verifies in private directories.

Nothing below /etc or /var of this machine is read for state or written: apt gets a configuration
of its own, an empty package database, and the mirror that this machine's own sources name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devcluster.artefacts import Say
from devcluster.errors import DevclusterError
from devcluster.process import run

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_URI = re.compile(r"https?://[^\s\"]+?/debian/?(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True)
class Mirror:
    """A Debian archive, such as `http://mirror.example/debian`, and its architecture."""

    uri: str
    architecture: str

    def sources(self) -> str:
        """apt's one-line sources for the suite and its security updates."""
        option = f"[signed-by={KEYRING} arch={self.architecture}]"
        return (
            f"deb {option} {self.uri} {SUITE} main\n"
            f"deb {option} {self.uri}-security {SUITE}-security main\n"
        )


def find_mirror(env: Mapping[str, str], sources: Iterable[str]) -> str | None:
    """PITCREW_DEBIAN_MIRROR, or the first Debian archive that apt's sources name; None if none.

    `sources` are the texts of the sources files, one-line or deb822 style.
    """
    if chosen := env.get("PITCREW_DEBIAN_MIRROR"):
        return chosen.rstrip("/")
    for text in sources:
        lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        if found := _URI.search(lines):
            return found[0].rstrip("/")
    return None


def read_sources(etc: Path = Path("/etc/apt")) -> list[str]:
    """The texts of this machine's apt sources; none where there is no apt."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    return [file.read_text(errors="replace") for file in files if file.is_file()]


def download(
    mirror: Mirror,
    packages: Sequence[str],
    into: Path,
    say: Say,
    *,
    with_dependencies: bool = True,
) -> list[Path]:
    """Fetch packages, and all they depend on, verified against the archive's signature.

    Returns:
        The .deb files, in `into`.
    """
    env = _private_apt(mirror, into)
    archives = into / "cache" / "archives"
    say("package lists")
    run(["apt-get", "-q", "update"], env=env)
    install = ["-y", "--no-install-recommends", "--download-only", "install"]
    words = install if with_dependencies else ["download"]
    run(["apt-get", "-q", *words, *packages], env=env, cwd=archives, say=say)
    debs = sorted(archives.glob("*.deb"))
    if not debs:
        raise DevclusterError(f"apt downloaded none of {', '.join(packages)} from {mirror.uri}")
    return debs


def unpack(debs: Iterable[Path], root: Path, say: Say) -> None:
    """Unpack packages into a file tree in which /bin, /sbin and /lib lead to /usr, as on Debian.

    Maintainer scripts do not run: what they would have made is the caller's to make.
    """
    merge_usr(root)
    for deb in debs:
        say(deb.name.partition("_")[0])
        run(
            [
                "sh",
                "-ec",
                'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"',
                "unpack",
                deb,
                root,
            ]
        )


def merge_usr(root: Path) -> None:
    """Make the top-level links of a merged-usr system."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        link = root / name
        if not link.is_symlink():
            link.symlink_to(f"usr/{name}")


def certificates(root: Path) -> str:
    """The certificate bundle that ca-certificates' own script would have concatenated."""
    files = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    return "".join(file.read_text().rstrip() + "\n" for file in files)


def _private_apt(mirror: Mirror, root: Path) -> dict[str, str]:
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (root / directory).mkdir(parents=True)
    (root / "status").touch()
    (root / "sources.list").write_text(mirror.sources())
    settings = {
        "Dir::State": root / "state",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": mirror.architecture,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    lines = "".join(f'{name} "{value}";\n' for name, value in settings.items())
    (root / "apt.conf").write_text(
        lines + f'#clear APT::Architectures;\nAPT::Architectures:: "{mirror.architecture}";\n'
    )
    return {"APT_CONFIG": str(root / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
