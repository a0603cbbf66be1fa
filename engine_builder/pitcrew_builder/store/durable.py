"""Writes that survive a power cut: synced files, then synced directories."""

import os
from pathlib import Path


def sync_tree(directory: Path) -> None:
    """Make every file and directory below and at `directory` durable."""
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))


def make_directories(directory: Path, root: Path) -> None:
    """Create the directories between `root` and `directory`, durably."""
    directory.mkdir(parents=True, exist_ok=True)
    for parent in [directory, *directory.parents]:
        sync(parent)
        if parent == root:
            return


def sync(path: Path) -> None:
    """Make one file or directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
