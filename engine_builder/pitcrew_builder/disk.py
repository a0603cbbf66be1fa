"""Whether there is room, asked before the first byte is written."""

import shutil
from pathlib import Path

from pitcrew_builder.errors import GROW, DiskFull

MARGIN = 16 << 20
"""Bytes left for small files and the file system's own."""


def check_room(directory: Path, needed: int, what: str) -> None:
    """Raise `DiskFull` where the volume of `directory` has less than `needed` bytes and a margin."""
    free = shutil.disk_usage(directory).free
    if free < needed + MARGIN:
        raise DiskFull(
            f"{what} needs {_mib(needed + MARGIN)} at {directory}, and {_mib(free)} are free; {GROW}"
        )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"
