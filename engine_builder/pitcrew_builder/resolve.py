"""What a build would make, told before anything is downloaded, reserved or compiled.

The answer names the engine: its id is known as far as the source tells digests without its weights
being read. Beside it stands what the planner predicts, and whether the GPUs at hand hold it.
"""

from collections.abc import Sequence
from pathlib import Path

from pitcrew_builder import __version__
from pitcrew_builder.checkpoint.directory import ADAPTER
from pitcrew_builder.plan.advise import Answer, answer
from pitcrew_builder.plan.console import refusal
from pitcrew_builder.plan.gpus import Gpu
from pitcrew_builder.progress import Tracker
from pitcrew_builder.prompts.evidence import gather
from pitcrew_builder.report import MESSAGE_LIMIT, Prediction, Resolved
from pitcrew_builder.request import plan
from pitcrew_builder.sources.survey import Surveyed, survey
from pitcrew_builder.spec import BuildSpec
from pitcrew_builder.targets import backend_of


def resolve(spec: BuildSpec, gpu: Gpu | None, cache: Path, tracker: Tracker) -> Resolved:
    """Name the engine of `spec` and predict it. Raises `BuildError` as a build does.

    `gpu` is what each rank would have; None leaves open whether the engine fits.
    """
    found = survey(spec.source, cache, tracker)
    merged = [survey(each.source, cache, tracker, ADAPTER) for each in spec.adapters]
    request = plan(
        spec,
        found.located,
        backend_of(spec).toolchain(),
        gather(spec),
        [each.located for each in merged],
    )
    identity = request.identity
    predicted = answer(spec, found.located.directory, gpu)
    exact = _is_exact([found, *merged])
    return Resolved(
        key=identity.engine_id,
        engine_id=identity.engine_id if exact else None,
        tag=identity.tag if exact else None,
        target_tag=identity.target_tag,
        model=identity.model,
        commit=identity.commit,
        adapter_commits=tuple(adapter.commit for adapter in identity.adapters),
        toolchain=identity.toolchain,
        builder_version=__version__,
        world_size=spec.parallelism.world_size,
        prediction=_prediction(predicted),
        misfit=None if predicted.fits else refusal(spec, predicted)[:MESSAGE_LIMIT],
    )


def _is_exact(found: Sequence[Surveyed]) -> bool:
    return all(each.exact for each in found)


def _prediction(predicted: Answer) -> Prediction:
    needed = predicted.needs
    fullest = max(needed.ranks, key=lambda rank: rank.weights + rank.activations)
    return Prediction(
        rank_weight_bytes=fullest.weights,
        rank_activation_bytes=fullest.activations,
        kv_bytes_per_token=needed.kv_per_token,
        engine_disk_bytes=needed.engine_disk,
        build_disk_bytes=needed.build_disk,
        build_ram_bytes=needed.build_ram,
        build_seconds=needed.build_seconds,
    )
