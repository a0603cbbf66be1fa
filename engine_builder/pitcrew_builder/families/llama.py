"""Llama 2 and 3: grouped-query attention, rotary positions, gated SiLU feed-forward."""

from pitcrew_builder.blocks.attention import Attention
from pitcrew_builder.blocks.causal_lm import Decoder, causal_lm
from pitcrew_builder.blocks.mlp import GatedMlp
from pitcrew_builder.blocks.pre_norm import PreNormLayer
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, frame
from pitcrew_builder.manifest import ResolvedShapes


class LlamaConfig(DecoderConfig):
    """`model_type: llama`."""

    attention_bias: bool = False
    mlp_bias: bool = False


def draw(config: LlamaConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a Llama."""
    bias = config.attention_bias
    layer = PreNormLayer(
        Attention(
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qkv_bias=bias,
            output_bias=bias,
        ),
        GatedMlp(config.hidden_size, config.intermediate_size, config.mlp_bias),
        config.rms_norm_eps,
    )
    return causal_lm(frame(config, shapes), layer.draw)


FAMILY = Family(
    name="llama",
    config=LlamaConfig,
    draw=draw,
    # Llama 2 saved a buffer that every reader computes.
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
)
