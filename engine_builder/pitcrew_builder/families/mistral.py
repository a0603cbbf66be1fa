"""Mistral: a Llama whose layers may all have a window."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.families.refusal import require
from pitcrew_builder.manifest import ResolvedShapes


class MistralConfig(DecoderConfig):
    """`model_type: mistral`."""

    num_key_value_heads: int = Field(default=8, gt=0, le=1024)
    max_position_embeddings: int = Field(default=131072, gt=1)
    sliding_window: int | None = Field(default=4096, gt=0)
    layer_types: tuple[str, ...] | None = None


def draw(config: MistralConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a Mistral."""
    require(config, "layer_types", config.layer_types, None)
    layer = DecoderLayer(
        replace(attention(config), window=config.sliding_window),
        gated_mlp(config),
        Norm(config.rms_norm_eps),
    )
    windows = [config.sliding_window]
    return decoder(frame(config, shapes, windows), [layer] * config.num_hidden_layers)


FAMILY = Family(name="mistral", config=MistralConfig, draw=draw)
