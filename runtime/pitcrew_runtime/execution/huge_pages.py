"""Asks for huge pages under what lies densely in memory: weights.

Every token reads all weights, and in pages of 4 KiB a good part of that is looking up addresses.
Where `/sys/kernel/mm/transparent_hugepage/enabled` is `madvise`, Linux gives pages of 2 MiB only to
those who ask; NumPy does, ONNX Runtime does not. What is there already is copied, by a thread in the
background, so nobody waits for it. Where a kernel knows no such thing, nothing happens.
"""

import ctypes
import re
import threading
from collections.abc import Iterator
from pathlib import Path

_HUGEPAGE, _COLLAPSE = 14, 25
"""Of madvise(2): may lie in huge pages; copy into them what does not (Linux 6.1)."""
_LEAST = 4 << 20
"""Smaller mappings gain nothing."""
_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0 *(?:\[heap\])?\n(?:\w+: .*\n)*?Rss: +(\d+) kB",
    re.MULTILINE,
)


def ask_for_huge_pages() -> None:
    """For all that this process has in memory now."""
    threading.Thread(target=_ask, name="huge pages", daemon=True).start()


def dense_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """(address, bytes) of the process's own large mappings that are mostly there.

    Stacks and reserves are not: a huge page would be more than they use. `smaps` is as proc(5) says.
    """
    for begin, end, resident in _MAPPING.findall(smaps):
        start, size = int(begin, 16), int(end, 16) - int(begin, 16)
        if size >= _LEAST and int(resident) << 10 >= size * 3 // 4:
            yield start, size


def _ask() -> None:
    advise = ctypes.CDLL(None).madvise
    for start, size in dense_mappings(Path("/proc/self/smaps").read_text()):
        for advice in (_HUGEPAGE, _COLLAPSE):
            # What it answers does not matter: a mapping may be gone, a kernel older.
            advise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)
