"""Things that take long to make and never change: made once, found again by what went into them.

An artefact's directory is `<name>-<version>-<digest of its inputs>`. It is made under a temporary
name and renamed when complete, under a lock, so nobody ever sees half of one and two builds at once
become one build and one wait.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster.config import Config
from devcluster.progress import Stage

Say = Callable[[str], None]


@dataclass(frozen=True)
class Artefact:
    """One thing to make: `make(directory, say)` fills an empty directory.

    `key` is a digest over every input that could change the result, `hint` is told to whoever waits.
    """

    name: str
    version: str
    key: str
    make: Callable[[Path, Say], None]
    hint: str = ""

    @property
    def directory_name(self) -> str:
        """Name, version and twelve digits of the inputs' digest."""
        return f"{self.name}-{self.version}-{self.key[:12]}"


def digest(parts: Iterable[bytes | str]) -> str:
    """A hex sha256 over the parts and their borders: ("ab", "c") differs from ("a", "bc")."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big"))
        total.update(data)
    return total.hexdigest()


def digest_files(root: Path, files: Iterable[Path]) -> str:
    """A hex sha256 over the files' paths below `root` and their bytes, in sorted order."""
    parts: list[bytes | str] = []
    for file in sorted(files):
        parts += [file.relative_to(root).as_posix(), file.read_bytes()]
    return digest(parts)


def ensure(config: Config, artefact: Artefact) -> Path:
    """The artefact's directory, made now if it was never made before."""
    final = config.artefacts / artefact.directory_name
    if final.is_dir():
        return final
    lock = config.artefacts / f".{artefact.directory_name}.lock"
    with locked(lock, f"another build of {artefact.name}"):
        if not final.is_dir():
            _make(artefact, final)
    return final


@contextmanager
def locked(path: Path, holder: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel lets go of it however the process ends.

    `holder` names, for the person who waits, whoever may hold it now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with Stage(f"waiting for {holder}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(artefact: Artefact, final: Path) -> None:
    prefix = f".{artefact.directory_name}.tmp-"
    for stale in final.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale)  # a build that was killed; we hold the lock, so nobody works in it
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    temporary.chmod(0o755)
    try:
        with Stage(f"{artefact.name} {artefact.version}", artefact.hint) as stage:
            artefact.make(temporary, stage.say)
        os.replace(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
