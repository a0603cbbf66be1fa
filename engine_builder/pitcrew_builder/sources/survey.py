"""Which checkpoint a source holds at this moment, told without reading or fetching its weights.

A hub lists digests, so there the answer is what a build will find. A volume and object storage list
none: there the weights are told apart by size and time, or by their ETags, and the answer is good
for one thing only, to notice that the same place holds something else.
"""

from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.checkpoint.digests import DigestCache
from pitcrew_builder.checkpoint.directory import MODEL, Kind
from pitcrew_builder.progress import Tracker
from pitcrew_builder.sources.source import Located
from pitcrew_builder.spec import HuggingFaceSource, LocalSource, S3Source


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a source holds. `located` has the small files in place, and no weights to fetch."""

    located: Located
    exact: bool
    """Whether commit and digests are those that a build finds."""


def survey(
    source: HuggingFaceSource | LocalSource | S3Source,
    cache: Path,
    tracker: Tracker,
    kind: Kind = MODEL,
) -> Surveyed:
    """Look at a checkpoint, or at an adapter. Raises `BuildError` as `find` does."""
    digests = DigestCache(cache / "digests.json")
    if isinstance(source, HuggingFaceSource):
        from pitcrew_builder.sources import hub

        return Surveyed(hub.locate(source, cache / "hub", digests, tracker, kind), exact=True)
    if isinstance(source, S3Source):
        from pitcrew_builder.sources import s3

        return Surveyed(s3.survey(source, cache / "s3", digests, tracker, kind), exact=False)
    from pitcrew_builder.sources import local

    return Surveyed(local.survey(source, digests, kind), exact=False)
