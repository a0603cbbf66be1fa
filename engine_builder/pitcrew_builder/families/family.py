"""What a family is, and what all families read from a config alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pitcrew_builder.blocks.causal_lm import Decoder, Frame
from pitcrew_builder.blocks.rope import LinearScaling, Llama3Scaling, Rope
from pitcrew_builder.blocks.step import CacheLayout
from pitcrew_builder.checkpoint.config import DecoderConfig, RopeParameters
from pitcrew_builder.errors import UnknownArchitecture
from pitcrew_builder.graph.ir import Graph
from pitcrew_builder.layout import SOLE, Layout
from pitcrew_builder.manifest import ResolvedShapes

Config = TypeVar("Config", bound=DecoderConfig)


@dataclass(frozen=True, slots=True)
class Family(Generic[Config]):
    """One `model_type`: how its config is read and how its network is drawn."""

    name: str
    config: type[Config]
    draw: Callable[[Config, ResolvedShapes], Decoder]
    """Config and limits to network. Raises `UnknownArchitecture` for a variation it cannot draw."""

    ignored: tuple[str, ...] = ()
    """Patterns of tensor names that checkpoints carry and the network does not need."""

    def graph(self, config: Config, shapes: ResolvedShapes, layout: Layout = SOLE) -> Graph:
        """The graph of one rank. Raises `UnknownArchitecture` as `draw` does."""
        return self.draw(config, shapes).graph(layout)


def frame(config: DecoderConfig, shapes: ResolvedShapes) -> Frame:
    """The frame of a decoder with rotary positions and RMS norms."""
    require(config, "hidden_act", config.hidden_act, "silu")
    return Frame(
        name=config.model_type,
        hidden=config.hidden_size,
        vocab=config.vocab_size,
        norm_epsilon=config.rms_norm_eps,
        tied=config.tie_word_embeddings,
        rope=rope(config),
        cache=CacheLayout(
            layers=config.num_hidden_layers,
            page=shapes.kv_page_size,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
        ),
        max_length=shapes.max_sequence_length,
    )


def rope(config: DecoderConfig) -> Rope:
    """The rotation that a config describes."""
    given = config.rope_parameters
    require(config, "rope_parameters.partial_rotary_factor", given.partial_rotary_factor, 1.0)
    return Rope(config.head_dim, given.rope_theta, _scaling(config, given))


def _scaling(config: DecoderConfig, given: RopeParameters) -> LinearScaling | Llama3Scaling | None:
    match given.rope_type:
        case "default":
            return None
        case "linear":
            return LinearScaling(given.factor)
        case "llama3":
            return Llama3Scaling(
                given.factor,
                given.low_freq_factor,
                given.high_freq_factor,
                given.original_max_position_embeddings or config.max_position_embeddings,
            )
    raise unsupported(config, "rope_type", given.rope_type, "default, linear, llama3")


def require(config: DecoderConfig, field: str, value: object, supported: object) -> None:
    """Refuse a variation of the family that its graph would not compute."""
    if value != supported:
        raise unsupported(config, field, value, supported)


def unsupported(
    config: DecoderConfig, field: str, value: object, supported: object
) -> UnknownArchitecture:
    """The error for a field whose value we cannot draw."""
    return UnknownArchitecture(
        f"config.json: {field} is {value!r}; for model_type '{config.model_type}' this version "
        f"draws only: {supported}"
    )


def ignored_tensors(family: Family[Config], config: Config) -> tuple[str, ...]:
    """Patterns of the tensor names that this checkpoint may carry unused."""
    # Some writers save the tied matrix under both of its names.
    return (*family.ignored, r"lm_head\.weight") if config.tie_word_embeddings else family.ignored
