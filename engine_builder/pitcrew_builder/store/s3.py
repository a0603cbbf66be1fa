"""Engines in object storage, where nothing can be renamed.

    <prefix>/<model>/<commit>/<target>/<id>/manifest.json      its writing makes the engine visible
    <prefix>/<model>/<commit>/<target>/<id>/files/<sha256>     one object a file
    <prefix>/<model>/<commit>/<target>/<id>/upload.json        somebody uploads, or did

Builders that race for one id write files of equal bytes to equal keys, and files of other bytes to
other keys; the manifest is written last, by one of them only (If-None-Match). So whatever stands
in the store is whole, and what was cut off shows nothing.

Removing an engine deletes its manifest. The files follow when nothing was written below that path
for `GRACE`, so a reader that had begun may finish; what cut-off uploads left goes the same way.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.errors import EngineCorrupt, StorageUnreachable
from pitcrew_builder.manifest import MANIFEST_NAME, FileEntry, Identity, Manifest
from pitcrew_builder.s3.objects import ObjectInfo, Objects
from pitcrew_builder.s3.upload import abort_uploads, upload
from pitcrew_builder.store import staging
from pitcrew_builder.store.engine import inside, parse_manifest
from pitcrew_builder.store.protocol import DEPTH, Kept, OnBytes, unwatched

UPLOAD = "upload.json"
FILES = "files"
GRACE = timedelta(hours=24)
"""How long after its last write a path without a manifest is taken for somebody's work."""

ATTEMPTS = 4


def _now() -> datetime:
    return datetime.now(UTC)


class S3Store:
    """Engines below one address. Builds are staged under `work`, on this machine."""

    def __init__(self, objects: Objects, work: Path, clock: Callable[[], datetime] = _now) -> None:
        self.objects = objects
        self._work = work
        self._clock = clock

    @property
    def location(self) -> str:
        """The address, as `s3://bucket/prefix`."""
        return self.objects.address.url

    def staging(self) -> AbstractContextManager[Path]:
        """An empty local directory to build in; what is left of it at the end is removed."""
        return staging.staging(self._work)

    def clean(self) -> int:
        """Remove what interrupted builds left, here at once, in the store after `GRACE`."""
        before = self._clock() - GRACE
        removed = staging.clean(self._work) + abort_uploads(self.objects, before)
        for path, items in self._tree().items():
            if _old(items, before):
                removed += self._sweep(path, before)
            elif _marked(items, before):
                removed += self._unmark(path, before)
        return removed

    def find(self, identity: Identity, *, digests: bool = False) -> Manifest | None:
        """The published engine of that identity; None where there is none, or a damaged one."""
        try:
            manifest = self.open(identity.relative_path, digests=digests)
        except EngineCorrupt:
            return None
        return manifest if manifest.engine_id == identity.engine_id else None

    def publish(self, staged: Path, identity: Identity, on_bytes: OnBytes = unwatched) -> Manifest:
        """Make `staged` the engine of `identity`, or use the one that another builder published."""
        path = identity.relative_path
        content = (staged / MANIFEST_NAME).read_bytes()
        manifest = parse_manifest(content, str(staged / MANIFEST_NAME))
        self._mark(path, {"engineId": manifest.engine_id})
        for _ in range(ATTEMPTS):
            self._upload_files(staged, path, manifest, on_bytes)
            self.objects.put_new(f"{path}/{MANIFEST_NAME}", content)
            # A sweep that had begun before our first write may have taken files meanwhile, and
            # another builder's manifest may stand there: whatever is visible has to be whole.
            published = self.find(identity)
            if published is not None:
                self.objects.delete([f"{path}/{UPLOAD}"])
                return published
            self.objects.delete([f"{path}/{MANIFEST_NAME}"])
        raise StorageUnreachable(
            f"{self.location}/{path}: files vanish while they are uploaded; see who cleans the "
            f"bucket, and try again"
        )

    def engines(self) -> Iterator[Kept]:
        """Every path that has a manifest, in their order."""
        for path, items in self._tree().items():
            published = items.get(MANIFEST_NAME)
            if published is not None:
                yield self._kept(path, published.modified)

    def open(self, path: str, *, digests: bool = True) -> Manifest:
        """A visible engine whose files are as its manifest says. Raises `EngineCorrupt`."""
        manifest = parse_manifest(self._manifest(path), f"{self.location}/{path}")
        stored = self._stored(path)
        for entry in manifest.files:
            self._check(path, entry, stored, digests)
        return manifest

    def fetch(self, path: str, target: Path, on_bytes: OnBytes = unwatched) -> Manifest:
        """Download an engine into `target`, an empty directory, every digest verified."""
        content = self._manifest(path)
        manifest = parse_manifest(content, f"{self.location}/{path}")
        stored = self._stored(path)
        for entry in manifest.files:
            self._check(path, entry, stored, digests=False)
            file = inside(target, entry)
            file.parent.mkdir(parents=True, exist_ok=True)
            self.objects.download(stored[entry.sha256], file, on_bytes)
            if sha256(file) != entry.sha256:
                raise self._damaged(path, entry, "does not have the digest of its manifest")
        (target / MANIFEST_NAME).write_bytes(content)
        return manifest

    def read_file(self, path: str, name: str) -> bytes:
        """A small file of an engine, verified. Raises `EngineCorrupt`."""
        manifest = parse_manifest(self._manifest(path), f"{self.location}/{path}")
        entry = next((item for item in manifest.files if item.path == name), None)
        if entry is None:
            raise EngineCorrupt(f"{self.location}/{path} lists no {name}; build the engine again")
        content = self.objects.read(_file(path, entry), limit=entry.size)
        if content is None or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise self._damaged(path, entry, "is missing or damaged")
        return content

    def remove(self, path: str) -> None:
        """Make an engine invisible; its files follow after `GRACE`."""
        # The mark is written first: it holds off the sweep from readers that have begun.
        self._mark(path, {"removed": True})
        self.objects.delete([f"{path}/{MANIFEST_NAME}"])

    def _upload_files(self, staged: Path, path: str, manifest: Manifest, on_bytes: OnBytes) -> None:
        stored = self._stored(path)
        for entry in manifest.files:
            present = stored.get(entry.sha256)
            if present is not None and present.size == entry.size:
                on_bytes(entry.size)
                continue
            upload(self.objects, _file(path, entry), inside(staged, entry), on_bytes)

    def _manifest(self, path: str) -> bytes:
        content = self.objects.read(f"{path}/{MANIFEST_NAME}")
        if content is None:
            raise EngineCorrupt(
                f"{self.location}/{path} holds no {MANIFEST_NAME}; it is no engine, or was removed"
            )
        return content

    def _stored(self, path: str) -> Mapping[str, ObjectInfo]:
        """The files below an engine's path, by digest."""
        items = self.objects.list(f"{path}/{FILES}/")
        return {item.path.rpartition("/")[2]: item for item in items}

    def _check(
        self, path: str, entry: FileEntry, stored: Mapping[str, ObjectInfo], digests: bool
    ) -> None:
        found = stored.get(entry.sha256)
        if found is None:
            raise self._damaged(path, entry, "is missing")
        if found.size != entry.size:
            raise self._damaged(path, entry, f"has {found.size} bytes instead of {entry.size}")
        if digests and self.objects.digest(found) != entry.sha256:
            raise self._damaged(path, entry, "does not have the digest of its manifest")

    def _damaged(self, path: str, entry: FileEntry, told: str) -> EngineCorrupt:
        return EngineCorrupt(f"{self.location}/{path}: {entry.path} {told}; build the engine again")

    def _kept(self, path: str, published: datetime) -> Kept:
        try:
            manifest = parse_manifest(self._manifest(path), f"{self.location}/{path}")
        except EngineCorrupt as error:
            return Kept(path, None, published, str(error))
        return Kept(path, manifest, published)

    def _tree(self, below: str = "") -> dict[str, dict[str, ObjectInfo]]:
        """Every engine's path with what lies below it."""
        tree: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
        for item in self.objects.list(below):
            parts = item.path.split("/")
            if len(parts) > DEPTH:
                tree["/".join(parts[:DEPTH])]["/".join(parts[DEPTH:])] = item
        return tree

    def _sweep(self, path: str, before: datetime) -> int:
        """Delete what lies at a path without a manifest and is older; returns whether it did."""
        # Asked anew for each path: the listing of a large store may be minutes old.
        items = self._tree(f"{path}/").get(path, {})
        if not _old(items, before):
            return 0
        self.objects.delete(item.path for item in items.values())
        return 1

    def _unmark(self, path: str, before: datetime) -> int:
        """Delete the mark of an upload that was cut off behind its manifest; returns whether."""
        if not _marked(self._tree(f"{path}/").get(path, {}), before):
            return 0
        self.objects.delete([f"{path}/{UPLOAD}"])
        if MANIFEST_NAME not in self._tree(f"{path}/").get(path, {}):
            # Removed in between: its readers count on a fresh mark.
            self._mark(path, {"removed": True})
        return 1

    def _mark(self, path: str, why: Mapping[str, Any]) -> None:
        """Write below a path, which holds a sweep off for `GRACE`."""
        self.objects.put(f"{path}/{UPLOAD}", json.dumps(why).encode())


def _marked(items: Mapping[str, ObjectInfo], before: datetime) -> bool:
    """Whether an engine is visible beside a mark that nobody will remove any more."""
    mark = items.get(UPLOAD)
    return MANIFEST_NAME in items and mark is not None and mark.modified < before


def _old(items: Mapping[str, ObjectInfo], before: datetime) -> bool:
    """Whether what lies at one path is invisible, and nobody's work."""
    newest = max((item.modified for item in items.values()), default=None)
    return MANIFEST_NAME not in items and newest is not None and newest < before


def _file(path: str, entry: FileEntry) -> str:
    return f"{path}/{FILES}/{entry.sha256}"
