"""Llama 2 and 3: grouped-query attention, rotary positions, gated feed-forward."""

from dataclasses import replace

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.manifest import ResolvedShapes


class LlamaConfig(DecoderConfig):
    """`model_type: llama`."""

    attention_bias: bool = False
    mlp_bias: bool = False


def draw(config: LlamaConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a Llama."""
    bias = config.attention_bias
    layer = DecoderLayer(
        replace(attention(config), qkv_bias=bias, output_bias=bias),
        gated_mlp(config, bias=config.mlp_bias),
        Norm(config.rms_norm_eps),
    )
    return decoder(frame(config, shapes), [layer] * config.num_hidden_layers)


FAMILY = Family(
    name="llama",
    config=LlamaConfig,
    draw=draw,
    # Llama 2 saved a buffer that every reader computes.
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)
