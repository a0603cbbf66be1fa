"""Bringing an engine to this machine: whole and verified, or not at all."""

from contextlib import suppress
from pathlib import Path

from pitcrew_builder.disk import room_for
from pitcrew_builder.errors import EngineCorrupt, InvalidSpec
from pitcrew_builder.manifest import Manifest
from pitcrew_builder.store.durable import sync, sync_tree
from pitcrew_builder.store.engine import open_engine, read_manifest
from pitcrew_builder.store.local import STAGING, Store
from pitcrew_builder.store.protocol import EngineStore, OnBytes, unwatched


def pull(store: EngineStore, path: str, target: Path, on_bytes: OnBytes = unwatched) -> Manifest:
    """Make `target` the engine at `path`; one that is it already stays, and one that was is mended.

    The copy grows beside `target`, on the same volume, and becomes visible by one rename. Raises
    `EngineCorrupt`, `DiskFull`, and `InvalidSpec` where `target` is something else.
    """
    manifest = store.open(path, digests=False)
    if _holds(target, manifest):
        return manifest
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Store(target.parent)
    beside.clean()
    with (
        room_for(target.parent, manifest.size_bytes, f"engine {manifest.tag}"),
        beside.staging() as directory,
    ):
        staged = directory / "engine"
        staged.mkdir()
        store.fetch(path, staged, on_bytes)
        sync_tree(staged)
        _place(staged, target, manifest)
    with suppress(OSError):  # another pull is under way
        (target.parent / STAGING).rmdir()
    return manifest


def _holds(target: Path, wanted: Manifest) -> bool:
    """Whether the engine is there; a damaged copy of it is not. Raises `InvalidSpec`."""
    if not target.exists():
        return False
    remedy = "name a directory that does not exist, or remove this one"
    try:
        found = read_manifest(target)
    except EngineCorrupt as error:
        raise InvalidSpec(f"--to {target} exists and is no engine ({error}); {remedy}") from None
    if found.engine_id != wanted.engine_id:
        raise InvalidSpec(f"--to {target} exists and holds {found.tag}; {remedy}")
    try:
        open_engine(target)
    except EngineCorrupt:
        return False
    return True


def _place(staged: Path, target: Path, manifest: Manifest) -> None:
    """Rename into place, out of which a damaged copy is moved; somebody may have been faster."""
    while not _holds(target, manifest):
        with suppress(FileNotFoundError):
            # It goes with the staging directory; who reads it keeps the files that are open.
            target.rename(staged.parent / "damaged")
        try:
            staged.rename(target)
        except OSError:
            if not target.exists():
                raise
        else:
            sync(target.parent)
            return
