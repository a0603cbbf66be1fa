"""A checkpoint directory on a mounted volume. Its commit is the digest of its files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pitcrew_builder.checkpoint.digests import DigestCache
from pitcrew_builder.checkpoint.directory import MODEL, Directory, Kind, weight_files
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.progress import Tracker
from pitcrew_builder.sources.source import Located
from pitcrew_builder.spec import LocalSource


def locate(
    source: LocalSource, digests: DigestCache, tracker: Tracker, kind: Kind = MODEL
) -> Located:
    """Hash the files that count."""
    directory = Directory.of(Path(source.path))
    directory.file(kind.config)
    names = sorted({*directory.small_files(kind), *weight_files(directory, kind)})
    paths = {name: directory.file(name) for name in names}
    before = {name: _stamp(path) for name, path in paths.items()}
    total = sum(stamp.size for stamp in before.values())
    count = tracker.counter(total, f"hashing {source.name}")
    inputs = digests.all(paths, count)

    def check_unchanged() -> None:
        for name, path in paths.items():
            if not path.exists() or _stamp(path) != before[name]:
                raise CheckpointCorrupt(
                    f"{name} was written or removed while the build read it, so its digest is another "
                    f"file's; build again when nobody changes {directory.path}"
                )

    return Located(source.name, commit_of(inputs), inputs, directory, lambda: None, check_unchanged)


class _Stamp(NamedTuple):
    """What a file that is written to or replaced does not keep."""

    inode: int
    size: int
    modified: int


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def survey(source: LocalSource, digests: DigestCache, kind: Kind = MODEL) -> Located:
    """The same place without its weights being read: size and time stand for their digests."""
    directory = Directory.of(Path(source.path))
    directory.file(kind.config)
    small = directory.small_files(kind)
    inputs = digests.all({name: directory.file(name) for name in small})
    for name in weight_files(directory, kind):
        found = directory.file(name).stat()
        inputs[name] = f"{found.st_size} bytes of {found.st_mtime_ns}"
    return Located(source.name, commit_of(inputs), inputs, directory, lambda: None)


def commit_of(inputs: Mapping[str, str]) -> str:
    """40 hex digits over file names and digests, independent of their order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(inputs.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:40]
