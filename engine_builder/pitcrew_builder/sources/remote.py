"""What sources that download have in common: which of the files on offer a checkpoint needs."""

from collections.abc import Collection

from pitcrew_builder.checkpoint.directory import (
    MODEL,
    Directory,
    Kind,
    no_safetensors,
    shards,
)
from pitcrew_builder.errors import CheckpointNotFound


def require_config(offered: Collection[str], where: str, kind: Kind = MODEL) -> None:
    """Refuse a place that is no checkpoint of that kind."""
    if kind.config not in offered:
        raise CheckpointNotFound(f"{where} holds no {kind.config}; name a model's own place")


def small_names(offered: Collection[str], kind: Kind) -> tuple[str, ...]:
    """The files among `offered` that are read whole."""
    names = (*kind.small, *((kind.index,) if kind.index else ()))
    return tuple(name for name in names if name in offered)


def weight_names(
    directory: Directory, offered: Collection[str], where: str, kind: Kind = MODEL
) -> tuple[str, ...]:
    """The weight files among `offered`; `directory` holds the index already, where there is one."""
    if kind.index is not None and kind.index in offered:
        names = shards(directory.read_small(kind.index))
    elif kind.single in offered:
        names = (kind.single,)
    else:
        raise no_safetensors(sorted(offered), where, kind)
    missing = [name for name in names if name not in offered]
    if missing:
        raise CheckpointNotFound(
            f"{where}: {kind.index} names {missing[0]}, which is not there; choose a state that is "
            f"complete"
        )
    return names
