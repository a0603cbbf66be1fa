"""Qwen 3: a Llama that normalizes each head of queries and keys before it rotates them."""

from pydantic import Field

from pitcrew_builder.blocks.attention import Attention
from pitcrew_builder.blocks.causal_lm import Decoder, causal_lm
from pitcrew_builder.blocks.mlp import GatedMlp
from pitcrew_builder.blocks.pre_norm import PreNormLayer
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, frame, require
from pitcrew_builder.manifest import ResolvedShapes


class Qwen3Config(DecoderConfig):
    """`model_type: qwen3`."""

    # Not hidden_size / heads: the family's own default.
    head_dim: int = Field(default=128, gt=0, le=1024, multiple_of=2)
    attention_bias: bool = False
    use_sliding_window: bool = False


def draw(config: Qwen3Config, shapes: ResolvedShapes) -> Decoder:
    """The network of a Qwen 3."""
    require(config, "use_sliding_window", config.use_sliding_window, False)
    bias = config.attention_bias
    layer = PreNormLayer(
        Attention(
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qkv_bias=bias,
            output_bias=bias,
            head_norm_epsilon=config.rms_norm_eps,
        ),
        GatedMlp(config.hidden_size, config.intermediate_size),
        config.rms_norm_eps,
    )
    return causal_lm(frame(config, shapes), layer.draw)


FAMILY = Family(name="qwen3", config=Qwen3Config, draw=draw)
