"""Opens an engine directory: reads the manifest, verifies every file, refuses what cannot be served.

Only files that the manifest lists are ever opened, and each has been hashed before. A shared lock
on the manifest tells the store's garbage collection that somebody serves the engine.
"""

import errno
import fcntl
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from pitcrew_builder.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileEntry, Manifest, short_id
from pitcrew_builder.spec import Target
from pitcrew_runtime.errors import (
    EngineCorrupt,
    EngineIncompatible,
    EngineNotFound,
    WorldSizeMismatch,
)

_SERVED = (Target.ONNXRUNTIME_CPU, Target.TENSORRT)
_REPAIR = "delete the engine directory and build it again"


@dataclass(frozen=True, slots=True)
class EngineDirectory:
    """A verified engine."""

    root: Path
    manifest: Manifest

    def file(self, path: str) -> Path | None:
        """A listed file; None where the manifest lists none of that name."""
        listed = any(entry.path == path for entry in self.manifest.files)
        return self.root / path if listed else None

    def listed(self, path: str) -> Path:
        """A file that the engine cannot do without. Raises `EngineCorrupt` where it is not listed."""
        file = self.file(path)
        if file is None:
            raise EngineCorrupt(f"the manifest lists no file {path}; build the engine again")
        return file


def open_engine(root: Path, world_size: int | None) -> EngineDirectory:
    """Verify the engine under `root` for a runtime of that many ranks; None has as many as it needs.

    Raises `EngineNotFound`, `EngineCorrupt`, `EngineIncompatible` or `WorldSizeMismatch`. Reads all
    files once; a gigabyte takes about a second on each of a few threads.
    """
    manifest = _read_manifest(root)
    _hold(root / MANIFEST_NAME)
    _check_served(manifest, world_size)
    # Sizes first: a truncated copy is told apart at once, before gigabytes are hashed.
    for entry in manifest.files:
        _check_size(root, entry)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="verify") as pool:
        for _ in pool.map(lambda entry: _check_digest(root, entry), manifest.files):
            pass
    return EngineDirectory(root, manifest)


def _read_manifest(root: Path) -> Manifest:
    path = root / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise EngineNotFound(
            f"--engine {root}: there is no {MANIFEST_NAME}; mount the directory that "
            "`pitcrew-build` published, not a parent of it"
        ) from None
    except OSError as error:
        raise EngineNotFound(f"--engine {root}: cannot be read: {error.strerror}") from error
    try:
        _check_schema(json.loads(text))
        return Manifest.model_validate_json(text)
    except (ValidationError, ValueError) as error:
        raise EngineCorrupt(f"{path} is not an engine manifest: {error}; {_REPAIR}") from error


def _hold(manifest: Path) -> None:
    """Keep a shared lock on the manifest for the life of this process."""
    descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        os.close(descriptor)
        # A file system without locks has no collection that could ask for one either.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _check_schema(document: object) -> None:
    """Before the fields: another version may have others."""
    version = document.get("schemaVersion") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise EngineIncompatible(
            f"the manifest has schema version {version}, this runtime reads {SCHEMA_VERSION}: use "
            "builder and runtime images of one release, or build the engine again"
        )


def _check_served(manifest: Manifest, world_size: int | None) -> None:
    if world_size is not None and manifest.world_size != world_size:
        raise WorldSizeMismatch(
            f"engine {manifest.tag} was built for {manifest.world_size} rank(s), this runtime has "
            f"{world_size}: set worldSize (--world-size) to {manifest.world_size}, or build the "
            f"engine with tensor x pipeline x expert = {world_size}"
        )
    target = manifest.identity.target
    if target not in _SERVED:
        raise EngineIncompatible(
            f"engine {manifest.tag} is for target {target}; this runtime serves "
            f"{' and '.join(_SERVED)}: build the engine for one of them"
        )
    stages = manifest.identity.parallelism.pipeline
    if target is Target.TENSORRT and stages > 1:
        raise EngineIncompatible(
            f"engine {manifest.tag} is split into {stages} pipeline stages; this runtime serves those of "
            f"{Target.ONNXRUNTIME_CPU} alone: build plans with parallelism.pipeline 1 and more tensor or "
            "expert ranks"
        )
    if target is Target.TENSORRT and manifest.world_size > 1 and not manifest.ranks[0].segments:
        raise EngineIncompatible(
            f"engine {manifest.tag} has one plan for each of its {manifest.world_size} ranks, which "
            "cannot exchange values: build it anew with this release of Pitcrew"
        )
    if manifest.identity.engine_id != manifest.engine_id:
        raise EngineCorrupt(
            f"the manifest says engine {short_id(manifest.engine_id)}, but its identity hashes to "
            f"{short_id(manifest.identity.engine_id)}; {_REPAIR}"
        )


def _check_size(root: Path, entry: FileEntry) -> None:
    parts = PurePosixPath(entry.path)
    if parts.is_absolute() or ".." in parts.parts:
        raise EngineCorrupt(f"the manifest lists {entry.path!r}, outside of the engine; {_REPAIR}")
    try:
        size = (root / parts).stat().st_size
    except OSError as error:
        raise EngineCorrupt(f"{entry.path}: {error.strerror}; {_REPAIR}") from error
    if size != entry.size:
        raise EngineCorrupt(
            f"{entry.path} has {size} bytes, the manifest says {entry.size}; {_REPAIR}"
        )


def _check_digest(root: Path, entry: FileEntry) -> None:
    try:
        with (root / entry.path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EngineCorrupt(f"{entry.path}: {error.strerror}; {_REPAIR}") from error
    if digest != entry.sha256:
        raise EngineCorrupt(
            f"{entry.path} has sha256 {short_id(digest)}…, the manifest says {short_id(entry.sha256)}…; "
            f"{_REPAIR}"
        )
