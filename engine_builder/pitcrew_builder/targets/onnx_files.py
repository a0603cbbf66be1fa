"""A rank as ONNX graphs, and beside them files with the bytes of their constants."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder import serialize
from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.disk import room_for
from pitcrew_builder.graph.ir import Graph, Kinds, Value
from pitcrew_builder.graph.proto import Extent, to_proto
from pitcrew_builder.graph.segments import Segment, segments
from pitcrew_builder.manifest import FileEntry, GraphInterface, SegmentFile
from pitcrew_builder.progress import Tracker
from pitcrew_builder.targets.storage import as_stored
from pitcrew_builder.targets.target import Network, Written

GRAPH = "model.onnx"
CONTIGUOUS = "contiguous.onnx"
DATA = "model.onnx.data"


def write_onnx(
    root: Path,
    folder: str,
    network: Network,
    metadata: Mapping[str, str],
    tracker: Tracker,
    contiguous: Graph | None = None,
    *,
    cut: Sequence[Segment] | None = None,
    passing: bool = False,
) -> Written:
    """Write the whole graph, its segments where ranks exchange values, and the data of them all.

    `cut` are the segments, if not those of `graph.segments`. `contiguous` is another form of the graph with the
    same weights. All lie in `root/folder`; what is
    `passing` has no digests. Raises `DiskFull`.
    """
    directory = root / folder
    directory.mkdir(parents=True, exist_ok=True)
    stored = as_stored(network.graph, network.kinds)
    extents = serialize.place(stored)
    size = serialize.size(extents)
    files = _Graphs(directory, network.kinds, extents, metadata)
    with room_for(root, size, f"engine {metadata['tag']}"):
        files.write(GRAPH, network.graph)
        given = segments(network.graph) if cut is None else cut
        parts = tuple(_write_segments(files, folder, given))
        if contiguous is not None:
            files.write(CONTIGUOUS, contiguous)
        data = serialize.write_data(
            directory / DATA,
            folder,
            stored,
            extents,
            network.tensors,
            tracker.counter(size, "writing weights"),
            passing=passing,
        )
    graph = f"{folder}/{GRAPH}"
    interface = GraphInterface(
        graph=graph,
        placement=network.placement,
        segments=parts,
        contiguous=None if contiguous is None else f"{folder}/{CONTIGUOUS}",
        kv_dtype=network.kv_dtype,
        lora=network.lora,
    )
    graphs = [graph, *(part.graph for part in parts), interface.contiguous]
    listed = (*(file_entry(root, path) for path in graphs if path is not None), *data)
    return Written(interface, listed)


def file_entry(root: Path, path: str) -> FileEntry:
    """The manifest's entry of a file that is there."""
    file = root / path
    return FileEntry(path=path, size=file.stat().st_size, sha256=sha256(file))


@dataclass(frozen=True, slots=True)
class _Graphs:
    """Graphs of one directory that share their data files."""

    directory: Path
    kinds: Kinds
    extents: Mapping[Value, Extent]
    metadata: Mapping[str, str]

    def write(self, name: str, graph: Graph) -> None:
        """Write a float32 graph as one that reads what is stored."""
        proto = to_proto(as_stored(graph, self.kinds), self.extents, DATA, self.metadata)
        (self.directory / name).write_bytes(proto.SerializeToString(deterministic=True))


def _write_segments(files: _Graphs, folder: str, cut: Sequence[Segment]) -> Iterator[SegmentFile]:
    """Nothing where the graph is its own only segment."""
    for index, segment in enumerate(cut if len(cut) > 1 else ()):
        name = f"segment{index}.onnx"
        files.write(name, segment.graph)
        yield SegmentFile(graph=f"{folder}/{name}", exchanges=segment.exchanges)
