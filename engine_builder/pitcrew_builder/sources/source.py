"""What every source answers: which checkpoint exactly, and where its files are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pitcrew_builder.checkpoint.directory import Directory


@dataclass(frozen=True, slots=True)
class Located:
    """A checkpoint pinned to one state. Its small files are in place, its weights may not be."""

    model: str
    commit: str
    """40 hex digits."""
    inputs: Mapping[str, str]
    """File -> sha256, for every file that decides the engine's bytes."""
    directory: Directory
    fetch_weights: Callable[[], None]
    """Bring the weights into the directory; nothing where they are already."""
