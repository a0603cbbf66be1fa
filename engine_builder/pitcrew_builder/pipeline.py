"""The life of a build: resolve, parse, graph, optimize, serialize, validate, publish."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.checkpoint.directory import ADAPTER
from pitcrew_builder.manifest import Manifest, ProofReport
from pitcrew_builder.progress import Tracker
from pitcrew_builder.prompts.evidence import gather
from pitcrew_builder.proof.gate import check, check_served, check_tasks
from pitcrew_builder.report import Phase, ProofSummary, Succeeded, TaskSummary
from pitcrew_builder.request import Request, plan
from pitcrew_builder.sources.find import find
from pitcrew_builder.sources.source import Located, together
from pitcrew_builder.spec import BuildSpec, Proof
from pitcrew_builder.store.address import StoreAddress, open_store
from pitcrew_builder.targets import backend_of
from pitcrew_builder.targets.target import Site


@dataclass(frozen=True, slots=True)
class Places:
    """Where a build works."""

    store: StoreAddress
    cache: Path


def build(spec: BuildSpec, places: Places, tracker: Tracker) -> Succeeded:
    """Publish the engine of `spec`, or find it. Raises `BuildError`."""
    backend = backend_of(spec)
    store = open_store(places.store, places.cache / "staging")
    store.clean()
    with tracker.phase(Phase.RESOLVE, "locating the checkpoint"):
        evidence = gather(spec)
        located, merged = _locate(spec, places.cache, tracker)
        request = plan(spec, located, backend.toolchain(), evidence, merged)
        found = store.find(request.identity)
        if found is None:
            for each in (located, *merged):
                each.fetch_weights()
    if found is not None:
        return _found(found, spec.proof or Proof(), tracker)
    # Only here: what makes engines takes a second to import, and one that is found needs none of it.
    from pitcrew_builder.drawing import draw_network
    from pitcrew_builder.stage import stage
    from pitcrew_builder.trial import prepare

    drawn = draw_network(request, located, merged, backend, tracker)
    pinned = together(located, merged)
    with store.staging() as directory:
        site = _site(directory, places, request, tracker)
        drawn, trial = prepare(drawn, request, evidence, pinned, spec.proof, site)
        manifest = stage(site, backend, request, located.directory, drawn, trial)
        pinned.check_unchanged()
        with tracker.phase(Phase.PUBLISH, "publishing"):
            count = tracker.counter(manifest.size_bytes, "publishing")
            published = store.publish(site.engine, request.identity, count)
    return _succeeded(published, tracker, cached=published != manifest)


def _found(manifest: Manifest, wanted: Proof, tracker: Tracker) -> Succeeded:
    """An engine of the store. Its thresholds may be others than those it was published under."""
    with tracker.phase(Phase.PUBLISH, "already in the store"):
        if manifest.proof is not None:
            check(manifest.proof.scores, wanted)
            check_served(manifest.proof.served, wanted)
            check_tasks(manifest.proof.tasks, wanted.tasks)
        return _succeeded(manifest, tracker, cached=True)


def _locate(spec: BuildSpec, cache: Path, tracker: Tracker) -> tuple[Located, list[Located]]:
    """The checkpoint, and the adapters that are merged into it."""
    found = find(spec.source, cache, tracker)
    return found, [find(each.source, cache, tracker, ADAPTER) for each in spec.adapters]


def _site(staging: Path, places: Places, request: Request, tracker: Tracker) -> Site:
    scratch = staging / "scratch"
    scratch.mkdir()
    return Site(staging / "engine", scratch, places.cache, request.identity, tracker)


def _succeeded(manifest: Manifest, tracker: Tracker, *, cached: bool) -> Succeeded:
    identity = manifest.identity
    return Succeeded(
        engine_id=manifest.engine_id,
        tag=manifest.tag,
        path=identity.relative_path,
        model=identity.model,
        commit=identity.commit,
        world_size=manifest.world_size,
        size_bytes=manifest.size_bytes,
        manifest_sha256=hashlib.sha256(manifest.to_json().encode()).hexdigest(),
        max_batch_size=identity.shapes.max_batch_size,
        max_sequence_length=identity.shapes.max_sequence_length,
        kv_bytes_per_token=manifest.kv_bytes_per_token,
        cached=cached,
        seconds=round(tracker.seconds, 3),
        proof=_summary(manifest.proof) if manifest.proof else None,
        warnings=manifest.quantization.warnings if manifest.quantization else (),
    )


def _summary(proof: ProofReport) -> ProofSummary:
    worst = proof.worst
    return ProofSummary(
        perplexity=worst.perplexity,
        reference_perplexity=worst.reference_perplexity,
        top1_agreement=min(score.top1_agreement for score in proof.scores),
        kl_divergence=max(score.kl_divergence for score in proof.scores),
        tasks=tuple(
            TaskSummary(**task.model_dump(include=set(TaskSummary.model_fields)))
            for task in proof.tasks
        ),
    )
