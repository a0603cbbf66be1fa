"""Writing one engine directory where nobody looks yet: graph, weights, tokenizer, proof, manifest."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pitcrew_builder import serialize
from pitcrew_builder.checkpoint.digests import sha256
from pitcrew_builder.checkpoint.directory import TOKENIZER_FILES, Directory
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.disk import room_for
from pitcrew_builder.graph.ir import Graph, Value
from pitcrew_builder.graph.proto import Extent, to_proto
from pitcrew_builder.manifest import (
    MANIFEST_NAME,
    Canary,
    FileEntry,
    GraphInterface,
    Manifest,
    ModelFacts,
)
from pitcrew_builder.paged_runner import PagedRunner
from pitcrew_builder.progress import Tracker
from pitcrew_builder.report import Phase
from pitcrew_builder.request import Request, facts
from pitcrew_builder.validate import NEW_TOKENS, canary_prompt, prove

RANK = "rank0"
GRAPH = f"{RANK}/model.onnx"
DATA = "model.onnx.data"
TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True)
class Network:
    """A graph and the tensors that its weights are made of."""

    graph: Graph
    tensors: Mapping[str, TensorInfo]


def stage(
    staged: Path, request: Request, checkpoint: Directory, network: Network, tracker: Tracker
) -> Manifest:
    """Write, prove and describe the engine in `staged`, a directory that does not exist yet."""
    with tracker.phase(Phase.SERIALIZE, "writing weights"):
        files = _write_files(staged, request, checkpoint, network, tracker)
    known = facts(request, sum(weight.elements for weight in network.graph.weights))
    with tracker.phase(Phase.VALIDATE, "proving the engine"):
        canary = _prove(staged, request, known, tracker)
    manifest = _manifest(request, known, canary, files, tracker)
    (staged / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def _write_files(
    staged: Path, request: Request, checkpoint: Directory, network: Network, tracker: Tracker
) -> list[FileEntry]:
    (staged / RANK).mkdir(parents=True)
    extents = serialize.place(network.graph)
    with room_for(staged, serialize.size(extents), f"engine {request.identity.tag}"):
        return [
            *_write_graph(staged, request, network, extents, tracker),
            *_copy_tokenizer(staged / TOKENIZER, checkpoint),
        ]


def _write_graph(
    staged: Path,
    request: Request,
    network: Network,
    extents: Mapping[Value, Extent],
    tracker: Tracker,
) -> list[FileEntry]:
    metadata = {"engine_id": request.identity.engine_id, "tag": request.identity.tag}
    proto = to_proto(network.graph, extents, DATA, metadata)
    (staged / GRAPH).write_bytes(proto.SerializeToString(deterministic=True))
    data = serialize.write_data(
        staged / RANK / DATA,
        f"{RANK}/{DATA}",
        network.graph,
        extents,
        network.tensors,
        tracker.counter(serialize.size(extents), "writing weights"),
    )
    return [_entry(staged, GRAPH), data]


def _copy_tokenizer(target: Path, checkpoint: Directory) -> list[FileEntry]:
    target.mkdir()
    present = [name for name in TOKENIZER_FILES if checkpoint.has(name)]
    for name in present:
        (target / name).write_bytes(checkpoint.read_small(name))
    return [_entry(target.parent, f"{TOKENIZER}/{name}") for name in present]


def _entry(root: Path, path: str) -> FileEntry:
    file = root / path
    return FileEntry(path=path, size=file.stat().st_size, sha256=sha256(file))


def _prove(staged: Path, request: Request, known: ModelFacts, tracker: Tracker) -> Canary:
    shapes = request.identity.shapes
    longest = shapes.max_sequence_length
    prompt = canary_prompt(known, staged / TOKENIZER / "tokenizer.json", longest - 1)
    count = min(NEW_TOKENS, longest - len(prompt))
    runner = PagedRunner(staged / GRAPH, known, shapes.kv_page_size, capacity=len(prompt) + count)
    return prove(runner, prompt, count, tracker.advance)


def _manifest(
    request: Request,
    known: ModelFacts,
    canary: Canary,
    files: list[FileEntry],
    tracker: Tracker,
) -> Manifest:
    return Manifest(
        engine_id=request.identity.engine_id,
        tag=request.identity.tag,
        identity=request.identity,
        model=known,
        ranks=(GraphInterface(graph=GRAPH),),
        canary=canary,
        files=tuple(files),
        timings=dict(tracker.timings),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
