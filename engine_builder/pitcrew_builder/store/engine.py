"""One engine directory: read its manifest, and check its files against it."""

from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.errors import EngineCorrupt
from pitcrew_builder.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileEntry, Manifest
from pitcrew_builder.threads import at_once
from pitcrew_builder.validation import problems


def open_engine(path: Path, *, digests: bool = True) -> Manifest:
    """The manifest of an engine directory whose files are as it says, by size and by digest.

    `digests=False` leaves the digests out, which for large engines is the slow part. Raises
    `EngineCorrupt`.
    """
    manifest = read_manifest(path)
    for entry in manifest.files:
        _check_size(path, entry)
    if digests:
        for _ in at_once(lambda entry: _check_digest(path, entry), manifest.files):
            pass
    return manifest


def read_manifest(path: Path) -> Manifest:
    """The manifest of an engine directory, its files unseen. Raises `EngineCorrupt`."""
    file = path / MANIFEST_NAME
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise EngineCorrupt(f"{path} holds no {MANIFEST_NAME}; it is no engine directory") from None
    except OSError as error:
        raise EngineCorrupt(f"{file} cannot be read ({error}); build the engine again") from None
    return parse_manifest(content, str(file))


def parse_manifest(content: bytes, where: str) -> Manifest:
    """A manifest that agrees with itself. Raises `EngineCorrupt`."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise EngineCorrupt(
            f"{where} cannot be read ({problems(error)}); build the engine again"
        ) from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise EngineCorrupt(
            f"{where} has schema version {manifest.schema_version} and this version reads "
            f"{SCHEMA_VERSION}; build the engine again"
        )
    if manifest.engine_id != manifest.identity.engine_id:
        raise EngineCorrupt(
            f"{where}: engineId is not that of its identity; build the engine again"
        )
    return manifest


def inside(root: Path, entry: FileEntry) -> Path:
    """Where a listed file lies under `root`. Raises `EngineCorrupt` where that is outside."""
    parts = PurePosixPath(entry.path)
    file = root / parts
    outside = parts.is_absolute() or ".." in parts.parts
    if outside or not file.resolve().is_relative_to(root.resolve()):
        raise EngineCorrupt(f"{entry.path} leads out of {root}; build the engine again")
    return file


def _check_size(path: Path, entry: FileEntry) -> None:
    file = inside(path, entry)
    found = file.stat().st_size if file.is_file() else -1
    if found != entry.size:
        told = "is missing" if found < 0 else f"has {found} bytes instead of {entry.size}"
        raise EngineCorrupt(f"{file} {told}; build the engine again")


def _check_digest(path: Path, entry: FileEntry) -> None:
    file = inside(path, entry)
    if sha256(file) != entry.sha256:
        raise EngineCorrupt(f"{file} does not have the digest of its manifest; build it again")
