"""Qwen 2 and 2.5: a Llama whose queries, keys and values have biases."""

from pitcrew_builder.blocks.attention import Attention
from pitcrew_builder.blocks.causal_lm import Decoder, causal_lm
from pitcrew_builder.blocks.mlp import GatedMlp
from pitcrew_builder.blocks.pre_norm import PreNormLayer
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, frame, require
from pitcrew_builder.manifest import ResolvedShapes


class Qwen2Config(DecoderConfig):
    """`model_type: qwen2`."""

    use_sliding_window: bool = False


def draw(config: Qwen2Config, shapes: ResolvedShapes) -> Decoder:
    """The network of a Qwen 2."""
    require(config, "use_sliding_window", config.use_sliding_window, False)
    layer = PreNormLayer(
        Attention(
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qkv_bias=True,
        ),
        GatedMlp(config.hidden_size, config.intermediate_size),
        config.rms_norm_eps,
    )
    return causal_lm(frame(config, shapes), layer.draw)


FAMILY = Family(name="qwen2", config=Qwen2Config, draw=draw)
