"""Writing one engine directory where nobody looks yet: graph, weights, tokenizer, proof, manifest."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pitcrew_builder.checkpoint.directory import TOKENIZER_FILES, Directory
from pitcrew_builder.context_runner import ContextRunner
from pitcrew_builder.disk import room_for
from pitcrew_builder.manifest import (
    MANIFEST_NAME,
    Canary,
    FileEntry,
    GraphInterface,
    Manifest,
    ModelFacts,
)
from pitcrew_builder.network import Network as Executor
from pitcrew_builder.network import open_network, open_served
from pitcrew_builder.paged_runner import PagedRunner
from pitcrew_builder.positions import as_long
from pitcrew_builder.report import Phase
from pitcrew_builder.request import Request, facts
from pitcrew_builder.targets.onnx_files import file_entry
from pitcrew_builder.targets.target import Backend, Drawn, Network, Site, Written
from pitcrew_builder.trial import Trial
from pitcrew_builder.validate import (
    NEW_TOKENS,
    ROUNDED_TOLERANCE,
    TOLERANCE,
    canary_prompt,
    prove,
)
from pitcrew_builder.writeback import sent_early

TOKENIZER = "tokenizer"


def stage(
    site: Site,
    backend: Backend,
    request: Request,
    checkpoint: Directory,
    drawn: Drawn,
    trial: Trial,
) -> Manifest:
    """Write, prove and describe the engine in `site.engine`, a directory that is not there yet."""
    tracker = site.tracker
    with tracker.phase(Phase.SERIALIZE, "writing weights"):
        site.engine.mkdir()
        ranks = _write_ranks(site, backend, drawn.ranks)
        with room_for(site.engine, 0, f"engine {request.identity.tag}"):
            tokenizer = _copy_tokenizer(site.engine / TOKENIZER, checkpoint)
    known = facts(request, drawn.parameters)
    with sent_early(site.engine), tracker.phase(Phase.VALIDATE, "proving the engine"):
        with tracker.part(0, 3):
            proofs = _proofs(site, backend, drawn.ranks, ranks)
        packed = request.identity.quantization is not None
        network, served = open_network(proofs, packed=packed), open_served(proofs, packed=packed)
        with tracker.part(1, 3):
            canary = _prove(site, network, served, request, known, backend.lead)
        with tracker.part(2, 3):
            proof = trial.judge(network, served, tracker.advance)
    manifest = Manifest(
        engine_id=request.identity.engine_id,
        tag=request.identity.tag,
        identity=request.identity,
        model=known,
        ranks=tuple(rank.interface for rank in ranks),
        canary=canary,
        proven=backend.proven,
        files=(*(file for rank in ranks for file in rank.files), *tokenizer),
        timings=dict(tracker.timings),
        quantization=trial.quantization,
        proof=proof,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    (site.engine / MANIFEST_NAME).write_text(manifest.to_json())
    return manifest


def _write_ranks(site: Site, backend: Backend, networks: Sequence[Network]) -> list[Written]:
    written: list[Written] = []
    for rank, network in enumerate(networks):
        with site.tracker.part(rank, len(networks)):
            written.append(backend.write(network, replace(site, rank=rank)))
    return written


def _proofs(
    site: Site, backend: Backend, networks: Sequence[Network], written: Sequence[Written]
) -> list[tuple[Path, GraphInterface]]:
    """Of every rank what is run, and what its paths are relative to."""
    proofs = []
    for rank, (network, files) in enumerate(zip(networks, written, strict=True)):
        with site.tracker.part(rank, len(networks)):
            proof = backend.proof(network, files, replace(site, rank=rank))
            proofs.append((proof.root, proof.interface))
    return proofs


def _copy_tokenizer(target: Path, checkpoint: Directory) -> list[FileEntry]:
    target.mkdir()
    present = [name for name in TOKENIZER_FILES if checkpoint.has(name)]
    for name in present:
        (target / name).write_bytes(checkpoint.read_small(name))
    return [file_entry(target.parent, f"{TOKENIZER}/{name}") for name in present]


def _prove(
    site: Site,
    network: Executor,
    served: Executor | None,
    request: Request,
    known: ModelFacts,
    lead: float,
) -> Canary:
    shapes = request.identity.shapes
    # A canary that grew beyond short texts would be computed again on its way.
    longest = known.short_texts.up_to if known.short_texts else shapes.max_sequence_length
    prompt = canary_prompt(known, site.engine / TOKENIZER / "tokenizer.json", longest - 1)
    count = min(NEW_TOKENS, longest - len(prompt))
    total = len(prompt) + count
    rounds = request.identity.quantization is not None
    tolerance = ROUNDED_TOLERANCE if rounds else TOLERANCE

    def proven(facts: ModelFacts) -> Canary:
        runner = PagedRunner(network, facts, shapes.kv_page_size, capacity=total)
        other = ContextRunner(served, facts, total) if served is not None else None
        return prove(runner, prompt, count, site.tracker.advance, tolerance, lead, other)

    if known.short_texts:
        proven(as_long(known))
    return proven(known)
