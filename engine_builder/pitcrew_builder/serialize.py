"""Writing constants to the graph's data files: placed first, then streamed, hashed on the way.

A file is the unit of parallel work: one thread reads, widens, hashes and writes it block by block,
each block while it is in the caches. All of that leaves Python's lock.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.constants import blocks, nbytes, stored
from pitcrew_builder.graph.ir import Graph, Literal, Value, Weight
from pitcrew_builder.graph.proto import Extent, data_name
from pitcrew_builder.manifest import FileEntry
from pitcrew_builder.threads import threads

ALIGNMENT = 4096
"""Bytes. A runtime maps tensors of a file straight into memory, by pages."""

FILE_BYTES = 256 << 20
"""A file takes no further constant beyond this: several are written, and verified, at once."""

MOST_FILES = 64
"""Files of larger networks grow instead, so that about so many are enough."""


def place(graph: Graph, file_bytes: int = FILE_BYTES) -> dict[Value, Extent]:
    """Give every constant that is not inline its place in the data files, in graph order."""
    items = list(stored(graph))
    limit = max(file_bytes, sum(nbytes(item) for item in items) // MOST_FILES)
    extents: dict[Value, Extent] = {}
    file, offset = 0, 0
    for item in items:
        length = nbytes(item)
        if offset and offset + length > limit:
            file, offset = file + 1, 0
        extents[item.name] = Extent(offset, length, file)
        offset += length + -(offset + length) % ALIGNMENT
    return extents


def size(extents: Mapping[Value, Extent]) -> int:
    """Bytes of all data files."""
    ends: dict[int, int] = {}
    for extent in extents.values():
        ends[extent.file] = max(ends.get(extent.file, 0), extent.offset + extent.length)
    return sum(ends.values())


def write_data(
    stem: Path,
    folder: str,
    graph: Graph,
    extents: Mapping[Value, Extent],
    tensors: Mapping[str, TensorInfo],
    on_bytes: Callable[[int], None],
    *,
    passing: bool = False,
) -> tuple[FileEntry, ...]:
    """Write all constants to `stem` and its numbered neighbours. Who publishes makes them durable.

    Returns the manifest entries of the files, which lie in `folder` of the engine. `on_bytes` is
    told of every block, by one thread at a time. The first file that cannot be written ends all.
    Files that are `passing` are read and removed: nobody lists them, so they have no digest.
    """
    files: dict[int, list[Weight | Literal]] = {}
    for item in stored(graph):
        files.setdefault(extents[item.name].file, []).append(item)
    with ThreadPoolExecutor(threads()) as pool:
        work = _Work(stem, folder, extents, tensors, on_bytes, passing=passing)
        order = _by_size(files, extents)
        tasks = {file: pool.submit(work.write, file, files[file]) for file in order}
        try:
            wait(tasks.values(), return_when=FIRST_EXCEPTION)
        finally:
            work.stopped.set()
    # Here what ended the others raises; theirs are None.
    return tuple(entry for file in files if (entry := tasks[file].result()) is not None)


def _by_size(
    files: Mapping[int, Sequence[Weight | Literal]], extents: Mapping[Value, Extent]
) -> list[int]:
    """The largest first: one that began last would keep everybody waiting."""
    return sorted(files, key=lambda file: -sum(extents[each.name].length for each in files[file]))


class _Work:
    """What the threads that write data files share."""

    def __init__(
        self,
        stem: Path,
        folder: str,
        extents: Mapping[Value, Extent],
        tensors: Mapping[str, TensorInfo],
        on_bytes: Callable[[int], None],
        *,
        passing: bool,
    ) -> None:
        self.stopped = Event()
        self._passing = passing
        self._stem = stem
        self._folder = folder
        self._extents = extents
        self._tensors = tensors
        self._on_bytes = on_bytes
        self._lock = Lock()

    def write(self, number: int, items: Sequence[Weight | Literal]) -> FileEntry | None:
        """Write one file; None where the work was stopped before its end."""
        name = data_name(self._stem.name, number)
        digest, written = hashlib.sha256(), 0
        lasting = not self._passing
        with self._stem.with_name(name).open("wb", buffering=0) as file, WeightReader() as reader:
            for block in self._stream(items, reader):
                if self.stopped.is_set():
                    return None
                if lasting:
                    digest.update(block)
                _write_all(file.fileno(), block)
                written += block.nbytes
                with self._lock:
                    self._on_bytes(block.nbytes)
        sha256 = digest.hexdigest() if lasting else ""
        return FileEntry(path=f"{self._folder}/{name}", size=written, sha256=sha256)

    def _stream(
        self, items: Sequence[Weight | Literal], reader: WeightReader
    ) -> Iterator[memoryview]:
        """A data file from its first byte to its last, gaps included."""
        position = 0
        for item in items:
            extent = self._extents[item.name]
            if extent.offset > position:
                yield memoryview(bytes(extent.offset - position))
            yield from blocks(item, self._tensors, reader)
            position = extent.offset + extent.length


def _write_all(descriptor: int, block: memoryview) -> None:
    while block.nbytes:
        block = block[os.write(descriptor, block) :]
