"""SHA-256 of files, remembered while a file's size, time and inode stay the same."""

import hashlib
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BLOCK = 4 << 20


def sha256(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """64 hex digits. `on_bytes` is told of each block."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


class DigestCache:
    """Digests by file identity, kept in one JSON file. Losing it costs time, never truth."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _load(file)

    def sha256(self, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """The digest of a file, computed only where the file is not known."""
        key = _key(path)
        known = self._known.get(key)
        if known is not None:
            on_bytes(path.stat().st_size)
            return known
        digest = sha256(path, on_bytes)
        if _key(path) == key:
            self._remember(key, digest)
        return digest

    def _remember(self, key: str, digest: str) -> None:
        self._known[key] = digest
        fresh = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}")
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(self._known))
            fresh.replace(self._file)


def _load(file: Path) -> dict[str, str]:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _key(path: Path) -> str:
    resolved = path.resolve()
    stat = resolved.stat()
    # The change time cannot be set back by a copy that preserves the modification time.
    return f"{resolved}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
