"""Engines on a volume: published by one rename, removed by one rename.

A build writes under `<root>/.staging/<random>/` while it holds a lock. Publishing makes every file
and directory durable and renames once; the rename succeeds for one builder only. A staging
directory whose lock nobody holds was left by a killed build, and the next build removes it.

Who reads an engine holds a shared lock on its manifest (`reading`); an engine so held is not
removed. A reader that takes no lock keeps the files it has open, as far as the file system keeps
removed files for those who read them.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.disk import room_for
from pitcrew_builder.errors import EngineCorrupt, EngineInUse
from pitcrew_builder.manifest import MANIFEST_NAME, Identity, Manifest
from pitcrew_builder.store import staging
from pitcrew_builder.store.durable import make_directories, sync, sync_tree
from pitcrew_builder.store.engine import inside, open_engine, read_manifest
from pitcrew_builder.store.protocol import Kept, OnBytes, unwatched

STAGING = ".staging"
_DEPTH = "*/*/*/*"
"""An engine's path below the root: model, commit, target, id."""


class Store:
    """Engines under one root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """The root directory."""
        return str(self.root)

    def staging(self) -> AbstractContextManager[Path]:
        """An empty directory of our own; what is left of it at the end is removed."""
        return staging.staging(self.root / STAGING)

    def clean(self) -> int:
        """Remove what killed builds left under staging; returns how many."""
        return staging.clean(self.root / STAGING)

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

    def publish(self, staged: Path, identity: Identity, on_bytes: OnBytes = unwatched) -> Manifest:
        """Make `staged` the engine of `identity`, or use the one that another builder published."""
        final = self.root / identity.relative_path
        with room_for(staged, 0, f"engine {identity.tag}"):
            # Some file systems find out here that a write had no room.
            sync_tree(staged)
        make_directories(final.parent, self.root)
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
            sync(final.parent)
            return open_engine(final, digests=False)

    def engines(self) -> Iterator[Kept]:
        """Every directory at an engine's depth, in the order of their paths."""
        for path in sorted(self.root.glob(_DEPTH)):
            if STAGING not in path.relative_to(self.root).parts and path.is_dir():
                yield _kept(path, str(path.relative_to(self.root)))

    def open(self, path: str, *, digests: bool = True) -> Manifest:
        """A visible engine whose files are as its manifest says. Raises `EngineCorrupt`."""
        return open_engine(self.root / path, digests=digests)

    def fetch(self, path: str, target: Path, on_bytes: OnBytes = unwatched) -> Manifest:
        """Copy an engine into `target`, an empty directory, every digest verified."""
        source = self.root / path
        with reading(source):
            for entry in read_manifest(source).files:
                copy = inside(target, entry)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(inside(source, entry), copy)
                on_bytes(entry.size)
            shutil.copyfile(source / MANIFEST_NAME, target / MANIFEST_NAME)
        return open_engine(target)

    def read_file(self, path: str, name: str) -> bytes:
        """A small file of an engine, verified. Raises `EngineCorrupt`."""
        root = self.root / path
        entry = next((item for item in read_manifest(root).files if item.path == name), None)
        if entry is None:
            raise EngineCorrupt(f"{root} lists no {name}; build the engine again")
        file = inside(root, entry)
        if not file.is_file() or sha256(file) != entry.sha256:
            raise EngineCorrupt(f"{file} is missing or damaged; build the engine again")
        return file.read_bytes()

    def remove(self, path: str) -> None:
        """Move an engine out of sight and delete it. Raises `EngineInUse` while it is read."""
        engine = self.root / path
        with _unread(engine):
            self._set_aside(engine)
        for parent in [engine.parent, engine.parent.parent, engine.parent.parent.parent]:
            with suppress(OSError):  # other engines are in it
                parent.rmdir()

    def _set_aside(self, engine: Path) -> None:
        """Move an engine out of sight; readers that hold it open keep their files."""
        with self.staging() as directory, suppress(FileNotFoundError):
            engine.rename(directory / "aside")


@contextmanager
def reading(engine: Path) -> Iterator[None]:
    """Inside, the engine is not removed by a garbage collection. Raises `EngineCorrupt`."""
    try:
        stream = (engine / MANIFEST_NAME).open("rb")
    except OSError as error:
        raise EngineCorrupt(f"{engine} cannot be read ({error}); build the engine again") from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        if not (engine / MANIFEST_NAME).exists():
            raise EngineCorrupt(f"{engine} was removed just now; build the engine again")
        yield


@contextmanager
def _unread(engine: Path) -> Iterator[None]:
    """Inside, nobody begins to read the engine. Raises `EngineInUse` where somebody does."""
    try:
        stream = (engine / MANIFEST_NAME).open("rb+")
    except FileNotFoundError:
        yield
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineInUse(
                f"{engine} is being read; remove it when its last reader has stopped"
            ) from None
        yield


def _kept(path: Path, relative: str) -> Kept:
    try:
        manifest = read_manifest(path)
    except EngineCorrupt as error:
        return Kept(relative, None, _time(path), str(error))
    return Kept(relative, manifest, _time(path / MANIFEST_NAME))


def _time(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
