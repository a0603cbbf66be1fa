"""SHA-256 of files, remembered while a file's size, time and inode stay the same."""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock

from pitcrew_builder.threads import at_once

BLOCK = 1 << 20
"""Bytes that are read and hashed while they are in the caches."""


def sha256(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """64 hex digits. `on_bytes` is told of each block."""
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
            on_bytes(count)
    return digest.hexdigest()


class DigestCache:
    """Digests by file identity, kept in one JSON file. Losing it costs time, never truth."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _load(file)
        self._lock = Lock()

    def all(
        self, files: Mapping[str, Path], on_bytes: Callable[[int], None] = lambda _: None
    ) -> dict[str, str]:
        """The digests of files by their names, several computed at once.

        `on_bytes` is told of each block, by one thread at a time.
        """

        def count(amount: int) -> None:
            with self._lock:
                on_bytes(amount)

        return dict(
            zip(files, at_once(lambda path: self.sha256(path, count), files.values()), strict=True)
        )

    def sha256(self, path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
        """The digest of a file, computed only where the file is not known."""
        key = _key(path)
        known = self._known.get(key)
        if known is not None:
            on_bytes(path.stat().st_size)
            return known
        digest = sha256(path, on_bytes)
        if _key(path) == key:
            with self._lock:
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
