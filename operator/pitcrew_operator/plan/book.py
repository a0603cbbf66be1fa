"""The versions of one LLMEngine: a value, and what may happen to it.

At most one version is being built. What was proven last is current until another is proven, and the
one before it is kept for a rollback: no operation here loses either.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from pitcrew_operator.api.engine import LLMEngineStatus
from pitcrew_operator.api.version import EngineStatus, EngineVersion, Phase

_FAILURES: Final = 3
"""Failed versions that are kept for people to read."""


@dataclass(frozen=True)
class Book:
    """Versions, the newest first, and which of them serve."""

    versions: tuple[EngineVersion, ...] = ()
    current: str | None = None
    """Engine id."""
    previous: str | None = None

    @classmethod
    def of(cls, status: LLMEngineStatus) -> "Book":
        """As it is recorded."""
        return cls(status.versions, status.current, status.previous)

    def find(self, key: str) -> EngineVersion | None:
        """The version of a key."""
        return next((version for version in self.versions if version.key == key), None)

    @property
    def running(self) -> EngineVersion | None:
        """The version that is being built."""
        return next((v for v in self.versions if v.phase is Phase.BUILDING), None)

    @property
    def serving(self) -> EngineVersion | None:
        """The current version."""
        proven = (v for v in self.versions if v.phase is Phase.READY)
        return next((v for v in proven if v.id == self.current), None)

    @property
    def engine(self) -> EngineStatus | None:
        """The current engine."""
        serving = self.serving
        return serving.engine if serving else None

    def put(self, version: EngineVersion) -> "Book":
        """Take a version in, in the place of the one with its key."""
        if self.find(version.key) is None:
            return replace(self, versions=(version, *self.versions))
        new = tuple(version if v.key == version.key else v for v in self.versions)
        return replace(self, versions=new)

    def drop(self, *keys: str) -> "Book":
        """Forget versions."""
        return replace(self, versions=tuple(v for v in self.versions if v.key not in keys))

    def proven(self, version: EngineVersion) -> "Book":
        """A version is ready and becomes the current one."""
        book = self.kept(version)
        if self.current == version.id:
            return book
        return replace(book, current=version.id, previous=self.current)

    def kept(self, version: EngineVersion) -> "Book":
        """A version is ready, and what serves goes on serving.

        Another version that turned out to be the same engine (a copied checkpoint) makes way.
        """
        same = [v.key for v in self.versions if v.id == version.id and v.key != version.key]
        return self.drop(*same).put(version)

    def retire(self, retention: int, in_use: Collection[str]) -> "Book":
        """Mark what retention lets go; drop what failed long ago."""
        kept = {self.current, self.previous, *in_use}
        ready = [v for v in self.versions if v.phase is Phase.READY]
        ready.sort(key=lambda v: v.finished_at or "", reverse=True)
        free = [v.key for v in ready[retention:] if v.id not in kept]
        failed = [v.key for v in self.versions if v.phase is Phase.FAILED]
        marked = tuple(
            v.model_copy(update={"phase": Phase.RETIRED}) if v.key in free else v
            for v in self.versions
        )
        return replace(self, versions=marked).drop(*failed[_FAILURES:])

    @property
    def retired(self) -> tuple[EngineVersion, ...]:
        """Versions on their way out."""
        return tuple(v for v in self.versions if v.phase is Phase.RETIRED)
