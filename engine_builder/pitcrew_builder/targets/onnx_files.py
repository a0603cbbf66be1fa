"""A rank as ONNX graphs, and beside them files with the bytes of their constants."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pitcrew_builder import serialize
from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.disk import room_for
from pitcrew_builder.graph.ir import Graph, Value
from pitcrew_builder.graph.proto import Extent, to_proto
from pitcrew_builder.graph.segments import segments
from pitcrew_builder.manifest import FileEntry, GraphInterface, SegmentFile
from pitcrew_builder.progress import Tracker
from pitcrew_builder.targets.target import Network, Proof, Written

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
) -> Written:
    """Write the whole graph, its segments where ranks exchange values, and the data of them all.

    `contiguous` is another form of the graph with the same weights. All lie in `root/folder`.
    Raises `DiskFull`.
    """
    directory = root / folder
    directory.mkdir(parents=True, exist_ok=True)
    extents = serialize.place(network.graph)
    size = serialize.size(extents)
    with room_for(root, size, f"engine {metadata['tag']}"):
        _write_graph(directory / GRAPH, network.graph, extents, metadata)
        parts = tuple(_write_segments(directory, network.graph, extents, metadata))
        if contiguous is not None:
            _write_graph(directory / CONTIGUOUS, contiguous, extents, metadata)
        data = serialize.write_data(
            directory / DATA,
            folder,
            network.graph,
            extents,
            network.tensors,
            tracker.counter(size, "writing weights"),
        )
    interface = GraphInterface(
        graph=f"{folder}/{GRAPH}",
        placement=network.placement,
        segments=parts,
        contiguous=None if contiguous is None else f"{folder}/{CONTIGUOUS}",
        kv_dtype=network.kv_dtype,
        lora=network.lora,
    )
    graphs = [interface.graph, *(part.graph for part in parts), interface.contiguous]
    files = (*(file_entry(root, path) for path in graphs if path is not None), *data)
    return Written(interface, files, Proof(root, interface))


def file_entry(root: Path, path: str) -> FileEntry:
    """The manifest's entry of a file that is there."""
    file = root / path
    return FileEntry(path=path, size=file.stat().st_size, sha256=sha256(file))


def _write_segments(
    directory: Path, graph: Graph, extents: Mapping[Value, Extent], metadata: Mapping[str, str]
) -> Iterator[SegmentFile]:
    """Nothing where the graph is its own only segment."""
    cut = segments(graph)
    for index, segment in enumerate(cut if len(cut) > 1 else ()):
        file = directory / f"segment{index}.onnx"
        _write_graph(file, segment.graph, extents, metadata)
        yield SegmentFile(graph=f"{directory.name}/{file.name}", exchanges=segment.exchanges)


def _write_graph(
    file: Path, graph: Graph, extents: Mapping[Value, Extent], metadata: Mapping[str, str]
) -> None:
    proto = to_proto(graph, extents, DATA, metadata)
    file.write_bytes(proto.SerializeToString(deterministic=True))
