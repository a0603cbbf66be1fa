"""What every engine store does, wherever it keeps its engines."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeAlias

from pitcrew_builder.manifest import Identity, Manifest

DEPTH = 4
"""Parts of an engine's path: model, commit, target, id."""

OnBytes: TypeAlias = Callable[[int], None]
"""Is told of each amount of bytes that moved."""


def unwatched(_: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One visible engine of a store."""

    path: str
    """Relative to the store's root; an `Identity.relative_path`."""
    manifest: Manifest | None
    """None where it cannot be read."""
    published: datetime
    """When the manifest came to be, in UTC."""
    problem: str = ""
    """Why the manifest cannot be read."""


class EngineStore(Protocol):
    """Complete engines, found by what they are made of, and nothing else visible."""

    @property
    def location(self) -> str:
        """The store as people write it: a directory, or `s3://bucket/prefix`."""

    def staging(self) -> AbstractContextManager[Path]:
        """An empty local directory to build in; what is left of it at the end is removed."""

    def clean(self) -> int:
        """Remove what interrupted builds left; returns how many things."""

    def find(self, identity: Identity, *, digests: bool = False) -> Manifest | None:
        """The published engine of that identity; None where there is none, or a damaged one."""

    def publish(self, staged: Path, identity: Identity, on_bytes: OnBytes = unwatched) -> Manifest:
        """Make `staged` the engine of `identity`, or use the one that another builder published."""

    def engines(self) -> Iterator[Kept]:
        """Every visible engine, in the order of their paths."""

    def open(self, path: str, *, digests: bool = True) -> Manifest:
        """A visible engine whose files are as its manifest says. Raises `EngineCorrupt`."""

    def fetch(self, path: str, target: Path, on_bytes: OnBytes = unwatched) -> Manifest:
        """Copy an engine into `target`, an empty directory, every digest verified."""

    def read_file(self, path: str, name: str) -> bytes:
        """A small file of an engine, such as its graph, verified. Raises `EngineCorrupt`."""

    def remove(self, path: str) -> None:
        """Make an engine invisible. Raises `EngineInUse` where somebody is known to read it."""
