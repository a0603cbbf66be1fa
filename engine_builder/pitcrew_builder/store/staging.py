"""Directories for work that nobody sees yet, and the removal of what killed work left there.

A directory `<base>/<random>/` belongs to whoever holds the lock on `<random>.lock` beside it.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staging(base: Path) -> Iterator[Path]:
    """An empty directory of our own; what is left of it at the end is removed."""
    base.mkdir(parents=True, exist_ok=True)
    with _locked(base) as lock:
        directory = lock.with_suffix("")
        try:
            directory.mkdir()
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def clean(base: Path) -> int:
    """Remove the directories whose lock nobody holds; returns how many."""
    if not base.is_dir():
        return 0
    names = {item.with_suffix("") for item in base.iterdir()}
    return sum(_remove_if_abandoned(name) for name in sorted(names))


@contextmanager
def _locked(base: Path) -> Iterator[Path]:
    """Create a lock file of a random name, hold its lock, and remove it at the end."""
    while True:
        path = base / f"{secrets.token_hex(8)}.lock"
        try:
            with path.open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                # Between the two lines above a cleaner may have taken the file for abandoned.
                if _is_same_file(stream.fileno(), path):
                    yield path
                    return
        finally:
            path.unlink(missing_ok=True)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_if_abandoned(directory: Path) -> bool:
    """Remove a staging directory and its lock file, unless a live build holds the lock."""
    lock = directory.with_name(f"{directory.name}.lock")
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(directory, ignore_errors=True)
        lock.unlink(missing_ok=True)
        return True
