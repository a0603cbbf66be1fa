"""What every source answers: which checkpoint exactly, and where its files are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.checkpoint.directory import Directory


def _nothing() -> None:
    """A copy of our own does not change."""


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
    check_unchanged: Callable[[], None] = _nothing
    """Raises `CheckpointCorrupt` where a file is not the one any more whose digest is in `inputs`."""


def together(checkpoint: Located, adapters: Sequence[Located]) -> Located:
    """The checkpoint, which changes where one of its adapters does."""

    def check_unchanged() -> None:
        for each in (checkpoint, *adapters):
            each.check_unchanged()

    return replace(checkpoint, check_unchanged=check_unchanged)
