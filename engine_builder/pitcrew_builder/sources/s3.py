"""A checkpoint in object storage, pinned to the bytes of its objects.

S3 lists no SHA-256, so files come first and their digests after; a file whose ETag is known in the
cache is not fetched again. Its commit is the digest of its files, as it would be on a volume: the
same checkpoint is the same engine wherever it lies.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pitcrew_builder.checkpoint.digests import DigestCache
from pitcrew_builder.checkpoint.directory import MODEL, Directory, Kind
from pitcrew_builder.disk import room_for
from pitcrew_builder.progress import Tracker
from pitcrew_builder.s3.address import S3Address
from pitcrew_builder.s3.objects import ObjectInfo, Objects
from pitcrew_builder.sources.local import commit_of
from pitcrew_builder.sources.remote import require_config, small_names, weight_names
from pitcrew_builder.sources.source import Located
from pitcrew_builder.spec import S3Source


def locate(
    source: S3Source, cache: Path, digests: DigestCache, tracker: Tracker, kind: Kind = MODEL
) -> Located:
    """Download what the checkpoint needs, and hash it."""
    download, small, weights = _open(source, cache, tracker, kind)
    download.bring(weights, tracker)
    inputs = download.digests([*small, *weights], digests)
    return Located(source.name, commit_of(inputs), inputs, download.opened(), lambda: None)


def survey(
    source: S3Source, cache: Path, digests: DigestCache, tracker: Tracker, kind: Kind = MODEL
) -> Located:
    """The same place without its weights being fetched: ETags stand for their digests."""
    download, small, weights = _open(source, cache, tracker, kind)
    inputs = download.digests(small, digests)
    inputs |= {item.path: f"{item.size} bytes of ETag {item.etag}" for item in weights}
    return Located(source.name, commit_of(inputs), inputs, download.opened(), lambda: None)


def _open(
    source: S3Source, cache: Path, tracker: Tracker, kind: Kind
) -> tuple["_Download", list[ObjectInfo], list[ObjectInfo]]:
    """The small objects, which are here, and the weights, which are not yet."""
    objects = Objects(S3Address(source.bucket, source.prefix, source.endpoint, source.region))
    remote = _offered(objects)
    where = objects.address.url
    require_config(remote, where, kind)
    download = _Download(objects, cache / _state(objects.address, remote))
    small = [remote[name] for name in small_names(remote, kind)]
    download.bring(small, tracker)
    names = weight_names(download.opened(), remote, where, kind)
    return download, small, [remote[name] for name in names]


def _offered(objects: Objects) -> dict[str, ObjectInfo]:
    """The objects right below the prefix, by name; folders below it are no part of a checkpoint."""
    found = {item.path: item for item in objects.list()}
    return {name: item for name, item in found.items() if name and "/" not in name}


def _state(address: S3Address, remote: Mapping[str, ObjectInfo]) -> str:
    """A directory's name for these very objects: a replaced object makes another directory."""
    lines = [f"{address.endpoint}\n{address.url}\n"]
    lines += [f"{name} {item.etag} {item.size}\n" for name, item in sorted(remote.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


class _Download:
    """Objects of one state on their way to one directory."""

    def __init__(self, objects: Objects, directory: Path) -> None:
        self.directory = directory
        self._objects = objects

    def opened(self) -> Directory:
        """The directory, as a checkpoint."""
        return Directory.of(self.directory)

    def digests(self, items: Sequence[ObjectInfo], cache: DigestCache) -> dict[str, str]:
        """SHA-256 of files that are here, by name."""
        return cache.all({item.path: self.directory / item.path for item in items})

    def bring(self, items: Sequence[ObjectInfo], tracker: Tracker) -> None:
        """Download what is not here yet, from where a killed build left it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        absent = [item for item in items if not (self.directory / item.path).exists()]
        count = tracker.counter(sum(item.size for item in absent), "downloading")
        for item in absent:
            partial = self.directory / f".{item.path}.partial"
            with room_for(self.directory, item.size, f"downloading {item.path}"):
                self._objects.download(item, partial, count)
            # Another build that shares the cache may have waited for the same file.
            with suppress(FileNotFoundError):
                partial.replace(self.directory / item.path)
