"""Which mappings are worth huge pages."""

from pathlib import Path

import numpy as np

from pitcrew_runtime.execution.huge_pages import dense_mappings

SMAPS = """\
7f0000000000-7f0001000000 rw-p 00000000 00:00 0
Size:              16384 kB
KernelPageSize:        4 kB
Rss:               16000 kB
Pss:               16000 kB
VmFlags: rd wr mr mw me ac sd
7f1000000000-7f1000800000 rw-p 00000000 00:00 0
Size:               8192 kB
Rss:                  12 kB
7f2000000000-7f2001000000 r--p 00000000 08:01 77                         /usr/lib/weights.so
Size:              16384 kB
Rss:               16384 kB
55d000000000-55d000800000 rw-p 00000000 00:00 0                          [heap]
Size:               8192 kB
Rss:                8192 kB
7f3000000000-7f3000100000 rw-p 00000000 00:00 0
Size:               1024 kB
Rss:                1024 kB
"""


def test_large_dense_private_memory_is_found_and_nothing_else() -> None:
    found = list(dense_mappings(SMAPS))
    assert found == [(0x7F0000000000, 16 << 20), (0x55D000000000, 8 << 20)]


def test_an_array_of_this_process_is_found() -> None:
    array = np.ones(32 << 20, np.uint8)
    address = array.ctypes.data + array.nbytes // 2
    found = dense_mappings(Path("/proc/self/smaps").read_text())
    assert any(start <= address < start + size for start, size in found)
