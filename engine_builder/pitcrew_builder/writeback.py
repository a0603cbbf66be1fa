"""Asking the disk to begin early, so that making files durable has little left to wait for.

Only when they are written: who writes and hashes on all cores beside it is slowed down by what the
disk takes, of a virtual machine most of all, whose host serves its disk on the time of its cores.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import TypeAlias

PORTION = 16 << 20
"""Bytes that are sent at a time. A disk that is busy takes its time for each."""

Begin: TypeAlias = Callable[[int, int, int], None]
"""Sends bytes of an open file: its descriptor, where they begin, and how many."""

_WRITE = 2
"""`SYNC_FILE_RANGE_WRITE` of Linux: begin to write what is dirty, and wait for nothing."""

_BEGIN = getattr(ctypes.CDLL(None), "sync_file_range", None)


def begin(descriptor: int, offset: int, count: int) -> None:
    """Send bytes of a file to the disk.

    A hint: it makes nothing durable, and hides no error from the `fsync` that does. Systems and
    file systems without it write later.
    """
    if _BEGIN is not None:
        long = ctypes.c_int64
        _BEGIN(ctypes.c_int(descriptor), long(offset), long(count), ctypes.c_uint(_WRITE))


@contextmanager
def sent_early(directory: Path, send: Begin = begin) -> Iterator[None]:
    """Inside, the files that are below `directory` now go to the disk, by a thread of its own."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    stopped = Event()
    thread = Thread(target=_send, args=(files, send, stopped), name="writeback")
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _send(files: Sequence[Path], send: Begin, stopped: Event) -> None:
    for file in files:
        with suppress(OSError), file.open("rb", buffering=0) as stream:
            for offset in range(0, os.fstat(stream.fileno()).st_size, PORTION):
                if stopped.is_set():
                    return
                send(stream.fileno(), offset, PORTION)
