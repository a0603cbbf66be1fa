"""What a family is, and what all families read from a config alike."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pitcrew_builder.blocks.activation import ACTIVATIONS
from pitcrew_builder.blocks.attention import Attention
from pitcrew_builder.blocks.causal_lm import Decoder, Frame, causal_lm
from pitcrew_builder.blocks.decoder_layer import DecoderLayer, stack
from pitcrew_builder.blocks.mlp import GatedMlp
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.blocks.rope import Rope
from pitcrew_builder.blocks.step import MAIN, CacheLayout, StepPlan
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.refusal import unsupported
from pitcrew_builder.families.rotation import rope
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

    known_code: frozenset[str] = frozenset()
    """Values of `auto_map` in published checkpoints: code that this family replaces."""

    formats: frozenset[str] = frozenset()
    """Quantized formats (`quant_method`) that the family itself reads."""

    def graph(self, config: Config, shapes: ResolvedShapes, layout: Layout = SOLE) -> Graph:
        """The graph of one rank. Raises `UnknownArchitecture` as `draw` does."""
        return self.draw(config, shapes).graph(layout)


def frame(
    config: DecoderConfig,
    shapes: ResolvedShapes,
    windows: Iterable[int | None] = (None,),
    main: Rope | None = None,
) -> Frame:
    """The frame of a decoder with RMS norms, whose layers have these windows.

    `main` is its rotation; default: that of whole heads which the config describes.
    """
    length = shapes.max_sequence_length
    return Frame(
        name=config.model_type,
        hidden=config.hidden_size,
        vocab=config.vocab_size,
        norm=Norm(config.rms_norm_eps),
        tied=config.tie_word_embeddings,
        step=StepPlan(
            cache=CacheLayout(
                layers=config.num_hidden_layers,
                page=shapes.kv_page_size,
                kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
            ),
            ropes={MAIN: main or rope(config, length)},
            max_length=length,
            short_length=config.short_length(length),
            windows=tuple(dict.fromkeys(windows)),
        ),
    )


def attention(config: DecoderConfig) -> Attention:
    """Plain attention of the config's sizes."""
    return Attention(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
    )


def gated_mlp(config: DecoderConfig, *, bias: bool = False) -> GatedMlp:
    """The gated feed-forward block of the config's sizes and activation."""
    act = activation(config, "hidden_act", config.hidden_act)
    return GatedMlp(config.hidden_size, config.intermediate_size, bias, act)


def activation(config: DecoderConfig, field: str, name: str) -> str:
    """The name of an activation that blocks can draw."""
    if name not in ACTIVATIONS:
        raise unsupported(config, field, name, ", ".join(ACTIVATIONS))
    return name


def decoder(frame: Frame, layers: Sequence[DecoderLayer]) -> Decoder:
    """The network of these layers."""
    return causal_lm(frame, stack(layers))


def ignored_tensors(family: Family[Config], config: Config) -> tuple[str, ...]:
    """Patterns of the tensor names that this checkpoint may carry unused."""
    # Some writers save the tied matrix under both of its names.
    return (*family.ignored, r"lm_head\.weight") if config.tie_word_embeddings else family.ignored
