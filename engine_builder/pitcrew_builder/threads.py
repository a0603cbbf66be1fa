"""Threads that read, hash and write files: all of that leaves Python's lock."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MOST = 4
"""Volumes are not faster for more."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads() -> int:
    """One for each core of this process, as far as files gain from it."""
    return min(MOST, len(os.sched_getaffinity(0)))


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results in order, several made at a time. Ends what it has not begun where one raises."""
    with ThreadPoolExecutor(threads()) as pool:
        yield from pool.map(work, items)
