"""The engine store: complete engines, found by what they are made of, and nothing else visible.

A build writes under `<root>/.staging/<random>/` while it holds a lock on `<random>.lock` beside it.
Publishing makes every file and directory durable and renames once; the rename succeeds for one
builder only. A staging directory whose lock nobody holds was left by a killed build, and the next
build removes it.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.errors import EngineCorrupt
from pitcrew_builder.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FileEntry,
    Identity,
    Manifest,
)

STAGING = ".staging"


def open_engine(path: Path, *, digests: bool = True) -> Manifest:
    """The manifest of an engine directory whose files are as it says, by size and by digest.

    `digests=False` leaves the digests out, which for large engines is the slow part. Raises
    `EngineCorrupt`.
    """
    manifest = _read_manifest(path)
    for entry in manifest.files:
        _check_file(path, entry, digests)
    return manifest


class Store:
    """Engines under one root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, identity: Identity, *, digests: bool = False) -> Manifest | None:
        """The published engine of that identity; None where there is none, or a damaged one."""
        path = self.root / identity.relative_path
        if not path.is_dir():
            return None
        try:
            manifest = open_engine(path, digests=digests)
        except EngineCorrupt:
            return None
        return manifest if manifest.engine_id == identity.engine_id else None

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty directory of our own; what is left of it at the end is removed."""
        base = self.root / STAGING
        base.mkdir(parents=True, exist_ok=True)
        with _locked(base) as lock:
            directory = lock.with_suffix("")
            try:
                directory.mkdir()
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    def clean(self) -> int:
        """Remove what killed builds left under staging; returns how many."""
        base = self.root / STAGING
        if not base.is_dir():
            return 0
        names = {item.with_suffix("") for item in base.iterdir()}
        return sum(_remove_if_abandoned(name) for name in sorted(names))

    def publish(self, staged: Path, identity: Identity) -> Manifest:
        """Make `staged` the engine of `identity`, or use the one that another builder published."""
        final = self.root / identity.relative_path
        _sync_tree(staged)
        _make_directories(final.parent, self.root)
        while True:
            try:
                staged.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
                winner = self.find(identity, digests=True)
                if winner is not None:
                    return winner
                self._set_aside(final)
                continue
            _sync(final.parent)
            return open_engine(final, digests=False)

    def _set_aside(self, damaged: Path) -> None:
        """Move a damaged engine out of sight; readers that hold it open keep their files."""
        with self.staging() as directory, suppress(FileNotFoundError):
            damaged.rename(directory / "damaged")


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise EngineCorrupt(f"{path} holds no {MANIFEST_NAME}; it is no engine directory") from None
    except (OSError, ValidationError) as error:
        raise EngineCorrupt(f"{file} cannot be read ({error}); build the engine again") from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise EngineCorrupt(
            f"{file} has schema version {manifest.schema_version} and this version reads "
            f"{SCHEMA_VERSION}; build the engine again"
        )
    if manifest.engine_id != manifest.identity.engine_id:
        raise EngineCorrupt(f"{file}: engineId is not that of its identity; build the engine again")
    return manifest


def _check_file(path: Path, entry: FileEntry, digests: bool) -> None:
    file = path / entry.path
    if not file.resolve().is_relative_to(path.resolve()):
        raise EngineCorrupt(f"{entry.path} leads out of {path}; build the engine again")
    found = file.stat().st_size if file.is_file() else -1
    if found != entry.size:
        told = "is missing" if found < 0 else f"has {found} bytes instead of {entry.size}"
        raise EngineCorrupt(f"{file} {told}; build the engine again")
    if digests and sha256(file) != entry.sha256:
        raise EngineCorrupt(f"{file} does not have the digest of its manifest; build it again")


@contextmanager
def _locked(base: Path) -> Iterator[Path]:
    """Create a lock file of a random name, hold its lock, and remove it at the end."""
    while True:
        path = base / f"{secrets.token_hex(8)}.lock"
        try:
            with path.open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                # Between the two lines above a cleaner may have taken the file for abandoned.
                if _is_same_file(stream.fileno(), path):
                    yield path
                    return
        finally:
            path.unlink(missing_ok=True)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_if_abandoned(directory: Path) -> bool:
    """Remove a staging directory and its lock file, unless a live build holds the lock."""
    lock = directory.with_name(f"{directory.name}.lock")
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(directory, ignore_errors=True)
        lock.unlink(missing_ok=True)
        return True


def _make_directories(directory: Path, root: Path) -> None:
    """Create the directories between `root` and `directory`, durably."""
    directory.mkdir(parents=True, exist_ok=True)
    for parent in [directory, *directory.parents]:
        _sync(parent)
        if parent == root:
            return


def _sync_tree(directory: Path) -> None:
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
