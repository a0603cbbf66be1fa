"""Whether there is room: asked before the first byte is written, and told apart when it runs out."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pitcrew_builder.errors import DiskFull
from pitcrew_builder.manifest import size_text

MARGIN = 16 << 20
"""Bytes left for small files and the file system's own."""

# A quota and a limit of the process end a write as a full volume does.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def room_for(directory: Path, needed: int, what: str) -> Iterator[None]:
    """Write about `needed` bytes under `directory` inside; raises `DiskFull` before or during."""
    if free_bytes(directory) < needed + MARGIN:
        raise _full(directory, needed, what)
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full(directory, needed, what) from error
        raise


def free_bytes(directory: Path) -> int:
    """Bytes that we may still write on the volume of a directory."""
    return shutil.disk_usage(directory).free


def _full(directory: Path, needed: int, what: str) -> DiskFull:
    return DiskFull(
        f"{what} needs {size_text(needed + MARGIN)}, and {size_text(free_bytes(directory))} are free on the "
        f"volume of {directory}; free space there, enlarge it or lift its quota, and build again"
    )
