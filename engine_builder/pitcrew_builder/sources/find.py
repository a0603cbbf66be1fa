"""From a source to what it holds, whatever kind of place it is."""

from pathlib import Path

from pitcrew_builder.checkpoint.digests import DigestCache
from pitcrew_builder.checkpoint.directory import MODEL, Kind
from pitcrew_builder.progress import Tracker
from pitcrew_builder.sources.source import Located
from pitcrew_builder.spec import HuggingFaceSource, LocalSource, S3Source


def find(
    source: HuggingFaceSource | LocalSource | S3Source,
    cache: Path,
    tracker: Tracker,
    kind: Kind = MODEL,
) -> Located:
    """Pin the files of a checkpoint, or of an adapter. `cache` keeps downloads and digests."""
    digests = DigestCache(cache / "digests.json")
    if isinstance(source, HuggingFaceSource):
        from pitcrew_builder.sources import hub

        return hub.locate(source, cache / "hub", digests, tracker, kind)
    if isinstance(source, S3Source):
        from pitcrew_builder.sources import s3

        return s3.locate(source, cache / "s3", digests, tracker, kind)
    from pitcrew_builder.sources import local

    return local.locate(source, digests, tracker, kind)
