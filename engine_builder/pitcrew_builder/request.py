"""From a spec and a located checkpoint to everything that is decided before work begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pitcrew_builder import __version__
from pitcrew_builder.checkpoint.config import (
    DecoderConfig,
    Envelope,
    GenerationConfig,
    parse_as,
    parse_object,
)
from pitcrew_builder.checkpoint.directory import CONFIG, GENERATION_CONFIG, Directory
from pitcrew_builder.checkpoint.prequantized import read_scheme
from pitcrew_builder.checkpoint.scheme import Scheme
from pitcrew_builder.checkpoint.wrapped import language_config
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.families import family_of
from pitcrew_builder.families.family import Family
from pitcrew_builder.fit import Divisible, check_fit
from pitcrew_builder.layout import Layout
from pitcrew_builder.manifest import (
    Identity,
    MergedAdapter,
    ModelFacts,
    Placement,
    ResolvedShapes,
    ShortTexts,
)
from pitcrew_builder.prompts.evidence import Evidence
from pitcrew_builder.quantize.recipe import recipe_of
from pitcrew_builder.sources.source import Located
from pitcrew_builder.spec import BuildSpec, Shapes

DEFAULT_LENGTH = 8192


@dataclass(frozen=True, slots=True)
class Described:
    """What the configuration of a checkpoint says of its network."""

    raw: Mapping[str, Any]
    """The section of the language model."""
    family: Family[Any]
    config: DecoderConfig
    scheme: Scheme | None
    """Set where the checkpoint comes quantized."""
    wrapped: bool
    """Whether the network is the language model of a multimodal checkpoint."""


@dataclass(frozen=True, slots=True)
class Request:
    """What will be built."""

    network: Described
    identity: Identity
    generation: GenerationConfig


def describe(spec: BuildSpec, checkpoint: Directory) -> Described:
    """Read the configuration, and refuse a network that is not known or cannot be split so.

    Raises `CheckpointCorrupt`, `CheckpointUnsafe`, `UnknownArchitecture` and `InvalidSpec`.
    """
    whole = parse_object(checkpoint.read_small(CONFIG), CONFIG)
    raw = language_config(whole)
    family = family_of(parse_as(Envelope, raw, CONFIG))
    config: DecoderConfig = parse_as(family.config, raw, CONFIG)
    check_fit(spec.parallelism, _divisible(config))
    scheme = read_scheme(checkpoint, raw, family.formats)
    return Described(raw, family, config, scheme, wrapped=raw is not whole)


def plan(
    spec: BuildSpec,
    located: Located,
    toolchain: dict[str, str],
    evidence: Evidence,
    adapters: Sequence[Located] = (),
) -> Request:
    """Read the configuration, decide the shapes, and name the engine as built by `toolchain`."""
    found = describe(spec, located.directory)
    identity = Identity(
        model=located.model,
        commit=located.commit,
        inputs=dict(sorted(located.inputs.items())),
        target=spec.target,
        precision=spec.precision,
        parallelism=spec.parallelism,
        shapes=resolve_shapes(spec.shapes, found.config),
        adapters=tuple(
            MergedAdapter(
                model=adapter.model,
                commit=adapter.commit,
                inputs=dict(sorted(adapter.inputs.items())),
                weight=wanted.weight,
            )
            for wanted, adapter in zip(spec.adapters, adapters, strict=True)
        ),
        lora=spec.lora,
        tensorrt=spec.tensorrt.plan if spec.tensorrt else None,
        toolchain=toolchain,
        builder_version=__version__,
        quantization=recipe_of(spec, found.scheme, evidence.calibration_sha256),
        platform=spec.platform,
        proof_sha256=evidence.proof_sha256,
        tasks_sha256=evidence.tasks_sha256,
    )
    generation = _generation(located.directory)
    return Request(found, identity, generation)


def resolve_shapes(shapes: Shapes, config: DecoderConfig) -> ResolvedShapes:
    """Decide every default. Raises `InvalidSpec` beyond what the checkpoint was made for."""
    most = config.max_position_embeddings
    length = shapes.max_sequence_length or min(DEFAULT_LENGTH, most)
    if length > most:
        raise InvalidSpec(
            f"shapes.maxSequenceLength is {length}, and the checkpoint allows {most} "
            f"(max_position_embeddings); set it to {most} or less"
        )
    return ResolvedShapes(
        max_batch_size=shapes.max_batch_size,
        max_sequence_length=length,
        kv_page_size=shapes.kv_page_size,
    )


def facts(request: Request, parameters: int) -> ModelFacts:
    """What the runtime is told of the network."""
    config, generation = request.network.config, request.generation
    stated = generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id
    return ModelFacts(
        architecture=config.model_type,
        parameters=parameters,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        attention_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        bos_token_id=_first(generation.bos_token_id, config.bos_token_id),
        eos_token_ids=_as_tuple(stated),
        pad_token_id=_first(generation.pad_token_id, config.pad_token_id),
        short_texts=_short_texts(config, request.identity.shapes),
    )


def _short_texts(config: DecoderConfig, shapes: ResolvedShapes) -> ShortTexts | None:
    longest = shapes.max_sequence_length
    up_to = config.short_length(longest)
    return ShortTexts(up_to=up_to, first_position=longest) if up_to else None


def _divisible(config: DecoderConfig) -> Divisible:
    """What a split deals out to ranks."""
    return Divisible(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        features=config.feed_forward_widths,
        vocabulary=config.vocab_size,
        experts=config.experts,
    )


def placement_of(layout: Layout, config: DecoderConfig) -> Placement:
    """What the manifest says of a rank."""
    layers = layout.layers(config.num_hidden_layers)
    kv_heads = layout.kv_heads(config.num_key_value_heads)
    return Placement(
        tensor=layout.tensor,
        pipeline=layout.pipeline,
        expert=layout.expert,
        first_layer=layers.start,
        layers=len(layers),
        first_kv_head=kv_heads.start,
        kv_heads=len(kv_heads),
    )


def _generation(directory: Directory) -> GenerationConfig:
    if not directory.has(GENERATION_CONFIG):
        return GenerationConfig()
    raw: Mapping[str, Any] = parse_object(
        directory.read_small(GENERATION_CONFIG), GENERATION_CONFIG
    )
    return parse_as(GenerationConfig, dict(raw), GENERATION_CONFIG)


def _first(*candidates: int | None) -> int | None:
    return next((item for item in candidates if item is not None), None)


def _as_tuple(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else value
