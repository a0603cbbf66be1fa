"""What sources that download have in common: which of the files on offer a checkpoint needs."""

from collections.abc import Collection

from pitcrew_builder.checkpoint.directory import (
    CONFIG,
    INDEX,
    SINGLE,
    Directory,
    no_safetensors,
    shards,
)
from pitcrew_builder.errors import CheckpointNotFound


def require_config(offered: Collection[str], where: str) -> None:
    """Refuse a place that is no checkpoint."""
    if CONFIG not in offered:
        raise CheckpointNotFound(f"{where} holds no {CONFIG}; name a model's own place")


def weight_names(directory: Directory, offered: Collection[str], where: str) -> tuple[str, ...]:
    """The weight files among `offered`; `directory` holds the index already, where there is one."""
    if INDEX in offered:
        names = shards(directory.read_small(INDEX))
    elif SINGLE in offered:
        names = (SINGLE,)
    else:
        raise no_safetensors(sorted(offered), where)
    missing = [name for name in names if name not in offered]
    if missing:
        raise CheckpointNotFound(
            f"{where}: {INDEX} names {missing[0]}, which is not there; choose a state that is "
            f"complete"
        )
    return names
