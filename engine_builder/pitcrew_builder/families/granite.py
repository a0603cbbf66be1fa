"""Granite: a Llama with four multipliers."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.manifest import ResolvedShapes


class GraniteConfig(DecoderConfig):
    """`model_type: granite`."""

    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = Field(default=1.0, gt=0)


def draw(config: GraniteConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a Granite."""
    mixer = replace(
        attention(config),
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        scale=config.attention_multiplier,
    )
    layer = DecoderLayer(
        mixer,
        gated_mlp(config, bias=config.mlp_bias),
        Norm(config.rms_norm_eps),
        residual=config.residual_multiplier,
    )
    whole = replace(
        frame(config, shapes),
        embedding_scale=config.embedding_multiplier,
        logit_scale=1.0 / config.logits_scaling,
    )
    return decoder(whole, [layer] * config.num_hidden_layers)


FAMILY = Family(name="granite", config=GraniteConfig, draw=draw)
