"""A network as two files: an ONNX graph, and beside it the bytes of its constants."""

from collections.abc import Mapping
from pathlib import Path

from pitcrew_builder import serialize
from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.disk import room_for
from pitcrew_builder.graph.proto import to_proto
from pitcrew_builder.manifest import FileEntry
from pitcrew_builder.progress import Tracker
from pitcrew_builder.targets.target import Network

GRAPH = "model.onnx"
DATA = "model.onnx.data"


def write_onnx(
    root: Path,
    folder: str,
    network: Network,
    metadata: Mapping[str, str],
    tracker: Tracker,
) -> tuple[FileEntry, ...]:
    """Write both files to `root/folder` and return their entries. Raises `DiskFull`."""
    directory = root / folder
    directory.mkdir(parents=True, exist_ok=True)
    extents = serialize.place(network.graph)
    size = serialize.size(extents)
    with room_for(root, size, f"engine {metadata['tag']}"):
        proto = to_proto(network.graph, extents, DATA, metadata)
        (directory / GRAPH).write_bytes(proto.SerializeToString(deterministic=True))
        data = serialize.write_data(
            directory / DATA,
            f"{folder}/{DATA}",
            network.graph,
            extents,
            network.tensors,
            tracker.counter(size, "writing weights"),
        )
    return file_entry(root, f"{folder}/{GRAPH}"), data


def file_entry(root: Path, path: str) -> FileEntry:
    """The manifest's entry of a file that is there."""
    file = root / path
    return FileEntry(path=path, size=file.stat().st_size, sha256=sha256(file))
