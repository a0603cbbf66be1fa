"""Does a spec fit a GPU product, and if not, which nearest ones do."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.manifest import ResolvedShapes
from pitcrew_builder.plan.gpus import Gpu
from pitcrew_builder.plan.network import Planned, Rank, planned
from pitcrew_builder.plan.predict import Capacity, Needs, capacity, needs
from pitcrew_builder.request import resolve_shapes
from pitcrew_builder.spec import (
    MAX_RANKS,
    BuildSpec,
    CacheFormat,
    Quantization,
    QuantizationMethod,
    WeightFormat,
)

SHORTEST = 512
"""Tokens below which a shorter sequence is no advice."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A spec, predicted."""

    network: Planned
    needs: Needs
    gpu: Gpu | None
    capacity: Capacity | None
    """None where no GPU was named."""
    average: int
    """Tokens of an average sequence."""
    advice: tuple[str, ...] = ()
    """The nearest specs that fit, where this one does not, each in another direction."""

    @property
    def fits(self) -> bool:
        """Whether the engine and one sequence fit, as far as is known."""
        return self.capacity is None or self.capacity.fits


def answer(
    spec: BuildSpec, checkpoint: Directory, gpu: Gpu | None = None, average: int | None = None
) -> Answer:
    """Predict a spec. `average` defaults to half of the greatest length.

    Raises `InvalidSpec`, `UnknownArchitecture` and `CheckpointCorrupt` as a build does.
    """
    network = planned(spec, checkpoint)
    longest = network.shapes.max_sequence_length
    tokens = max(1, longest // 2) if average is None else average
    if tokens < 1:
        raise InvalidSpec(f"average length {tokens} is no number of tokens; give 1 or more")
    if tokens > longest:
        raise InvalidSpec(
            f"average length {tokens} is beyond maxSequenceLength {longest}; lower it, or raise "
            f"shapes.maxSequenceLength"
        )
    needed = needs(spec, network)
    if gpu is None:
        return Answer(network, needed, None, None, tokens)
    room = capacity(spec, network, needed, gpu, tokens)
    advice = () if room.fits else tuple(_advice(spec, network, checkpoint, gpu))
    return Answer(network, needed, gpu, room, tokens, advice)


Change: TypeAlias = tuple[str, BuildSpec]
"""What is changed, for people, and the spec with it."""


def _advice(spec: BuildSpec, network: Planned, checkpoint: Directory, gpu: Gpu) -> Iterator[str]:
    """The nearest spec in each direction that fits."""
    redrawn = partial(_redrawn, checkpoint=checkpoint)
    directions = (
        (_shapes(spec, network.shapes), partial(_reshaped, network)),
        (_fewer_adapters(spec), partial(_with_less_room, spec, network)),
        (_narrower(spec), redrawn),
        (_narrower_cache(spec), redrawn),
        (_wider(spec), redrawn),
    )
    for changes, drawn in directions:
        for told, changed in changes:
            candidate = drawn(changed)
            if candidate is None:
                continue
            longest = candidate.shapes.max_sequence_length
            room = capacity(changed, candidate, needs(changed, candidate), gpu, longest)
            if room.fits:
                yield f"{told} (sequences of full length at once: {room.full_sequences})"
                break


def _reshaped(network: Planned, spec: BuildSpec) -> Planned:
    """The same graphs: shapes change nothing of them but the length of their tables."""
    return replace(network, shapes=resolve_shapes(spec.shapes, network.config))


def _with_less_room(before: BuildSpec, network: Planned, spec: BuildSpec) -> Planned:
    """The same graphs but for the slots of their adapters."""
    assert before.lora is not None
    assert spec.lora is not None
    old, new = before.lora.numbers, spec.lora.numbers

    def fewer(rank: Rank) -> Rank:
        return replace(rank, sizes=replace(rank.sizes, adapters=rank.sizes.adapters // old * new))

    return replace(network, ranks=tuple(fewer(rank) for rank in network.ranks))


def _redrawn(spec: BuildSpec, checkpoint: Directory) -> Planned | None:
    """None where the network cannot be split so."""
    try:
        return planned(spec, checkpoint)
    except InvalidSpec:
        return None


def _shapes(spec: BuildSpec, shapes: ResolvedShapes) -> Iterator[Change]:
    batch, length = shapes.max_batch_size, shapes.max_sequence_length
    # Smaller batches first: they cost nobody a long answer.
    while batch > 1:
        batch //= 2
        changed = spec.shapes.model_copy(update={"max_batch_size": batch})
        yield f"shapes.maxBatchSize: {batch}", spec.model_copy(update={"shapes": changed})
    while length // 2 >= SHORTEST:
        length //= 2
        update = {"max_batch_size": 1, "max_sequence_length": length}
        told = f"shapes.maxBatchSize: 1, shapes.maxSequenceLength: {length}"
        shorter = spec.shapes.model_copy(update=update)
        yield told, spec.model_copy(update={"shapes": shorter})


def _fewer_adapters(spec: BuildSpec) -> Iterator[Change]:
    """Fewer at once first: a rank decides which adapters can be served at all."""
    if spec.lora is None:
        return
    lora = spec.lora
    while lora.max_adapters > 1 or lora.max_rank > 1:
        field = "max_adapters" if lora.max_adapters > 1 else "max_rank"
        lora = lora.model_copy(update={field: getattr(lora, field) // 2})
        told = f"lora.maxAdapters: {lora.max_adapters}, lora.maxRank: {lora.max_rank}"
        yield told, spec.model_copy(update={"lora": lora})


def _narrower(spec: BuildSpec) -> Iterator[Change]:
    given = spec.quantization or Quantization.model_construct()
    if given.weights is None:
        for weights in (WeightFormat.INT8, WeightFormat.INT4):
            update = {"weights": weights, "method": QuantizationMethod.ROUND}
            wanted = given.model_copy(update=update)
            told = f"quantization.weights: {weights}"
            yield told, spec.model_copy(update={"quantization": wanted})


def _narrower_cache(spec: BuildSpec) -> Iterator[Change]:
    wanted = spec.quantization or Quantization.model_construct()
    if wanted.kv_cache is None:
        changed = wanted.model_copy(update={"kv_cache": CacheFormat.INT8})
        told = f"quantization.kvCache: {CacheFormat.INT8}"
        yield told, spec.model_copy(update={"quantization": changed})


def _wider(spec: BuildSpec) -> Iterator[Change]:
    degree = spec.parallelism.tensor * 2
    while degree * spec.parallelism.pipeline * spec.parallelism.expert <= MAX_RANKS:
        split = spec.parallelism.model_copy(update={"tensor": degree})
        told = f"parallelism.tensor: {degree}"
        yield told, spec.model_copy(update={"parallelism": split})
        degree *= 2
