"""Bringing an engine to this machine: whole and verified, or not at all."""

from contextlib import suppress
from pathlib import Path

from pitcrew_builder.disk import room_for
from pitcrew_builder.errors import EngineCorrupt, InvalidSpec
from pitcrew_builder.manifest import Manifest
from pitcrew_builder.store.durable import sync, sync_tree
from pitcrew_builder.store.engine import open_engine
from pitcrew_builder.store.local import STAGING, Store
from pitcrew_builder.store.protocol import EngineStore, OnBytes, unwatched


def pull(store: EngineStore, path: str, target: Path, on_bytes: OnBytes = unwatched) -> Manifest:
    """Make `target`, which must not exist, the engine at `path`; one that is it already stays.

    The copy grows beside `target`, on the same volume, and becomes visible by one rename. Raises
    `EngineCorrupt`, `DiskFull`, and `InvalidSpec` where `target` is something else.
    """
    manifest = store.open(path, digests=False)
    if target.exists():
        return _present(target, manifest)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Store(target.parent)
    beside.clean()
    with (
        room_for(target.parent, manifest.size_bytes, f"engine {manifest.tag}"),
        beside.staging() as directory,
    ):
        staged = directory / "engine"
        staged.mkdir()
        fetched = store.fetch(path, staged, on_bytes)
        sync_tree(staged)
        placed = _place(staged, target, fetched)
    with suppress(OSError):  # another pull is under way
        (target.parent / STAGING).rmdir()
    return placed


def _place(staged: Path, target: Path, manifest: Manifest) -> Manifest:
    try:
        staged.rename(target)
    except OSError:
        # Somebody who shares the directory was faster.
        if not target.exists():
            raise
        return _present(target, manifest)
    sync(target.parent)
    return manifest


def _present(target: Path, wanted: Manifest) -> Manifest:
    remedy = "name a directory that does not exist, or remove this one"
    try:
        found = open_engine(target)
    except EngineCorrupt as error:
        raise InvalidSpec(
            f"--to {target} exists and is no sound engine ({error}); {remedy}"
        ) from None
    if found.engine_id != wanted.engine_id:
        raise InvalidSpec(f"--to {target} exists and holds {found.tag}; {remedy}")
    return found
