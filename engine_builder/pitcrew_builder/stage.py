"""Writing one engine directory where nobody looks yet: graph, weights, tokenizer, proof, manifest."""

from datetime import UTC, datetime
from pathlib import Path

from pitcrew_builder.checkpoint.directory import TOKENIZER_FILES, Directory
from pitcrew_builder.disk import room_for
from pitcrew_builder.manifest import (
    MANIFEST_NAME,
    Canary,
    FileEntry,
    Manifest,
    ModelFacts,
)
from pitcrew_builder.paged_runner import PagedRunner
from pitcrew_builder.report import Phase
from pitcrew_builder.request import Request, facts
from pitcrew_builder.targets.onnx_files import file_entry
from pitcrew_builder.targets.target import Backend, Network, Site
from pitcrew_builder.validate import NEW_TOKENS, canary_prompt, prove

TOKENIZER = "tokenizer"


def stage(
    site: Site, backend: Backend, request: Request, checkpoint: Directory, network: Network
) -> Manifest:
    """Write, prove and describe the engine in `site.engine`, a directory that is not there yet."""
    tracker = site.tracker
    with tracker.phase(Phase.SERIALIZE, "writing weights"):
        site.engine.mkdir()
        written = backend.write(network, site)
        with room_for(site.engine, 0, f"engine {request.identity.tag}"):
            tokenizer = _copy_tokenizer(site.engine / TOKENIZER, checkpoint)
    known = facts(request, sum(weight.elements for weight in network.graph.weights))
    with tracker.phase(Phase.VALIDATE, "proving the engine"):
        canary = _prove(site, written.proof, request, known)
    manifest = Manifest(
        engine_id=request.identity.engine_id,
        tag=request.identity.tag,
        identity=request.identity,
        model=known,
        ranks=(written.interface,),
        canary=canary,
        proven=backend.proven,
        files=(*written.files, *tokenizer),
        timings=dict(tracker.timings),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (site.engine / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def _copy_tokenizer(target: Path, checkpoint: Directory) -> list[FileEntry]:
    target.mkdir()
    present = [name for name in TOKENIZER_FILES if checkpoint.has(name)]
    for name in present:
        (target / name).write_bytes(checkpoint.read_small(name))
    return [file_entry(target.parent, f"{TOKENIZER}/{name}") for name in present]


def _prove(site: Site, graph: Path, request: Request, known: ModelFacts) -> Canary:
    shapes = request.identity.shapes
    longest = shapes.max_sequence_length
    prompt = canary_prompt(known, site.engine / TOKENIZER / "tokenizer.json", longest - 1)
    count = min(NEW_TOKENS, longest - len(prompt))
    runner = PagedRunner(graph, known, shapes.kv_page_size, capacity=len(prompt) + count)
    return prove(runner, prompt, count, site.tracker.advance)
