"""Asking the disk to begin early, so that making a file durable has little left to wait for."""

import ctypes

_WRITE = 2
"""`SYNC_FILE_RANGE_WRITE` of Linux: begin to write what is dirty, and wait for nothing."""

_BEGIN = getattr(ctypes.CDLL(None), "sync_file_range", None)


def begin(descriptor: int, offset: int, count: int) -> None:
    """Send bytes of a file to the disk while others are made.

    A hint: it makes nothing durable, and hides no error from the `fsync` that does. Systems and
    file systems without it write later.
    """
    if _BEGIN is not None:
        long = ctypes.c_int64
        _BEGIN(ctypes.c_int(descriptor), long(offset), long(count), ctypes.c_uint(_WRITE))
