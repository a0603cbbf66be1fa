"""Qwen 3: a Llama that normalizes each head of queries and keys before it rotates them."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.families.qwen2 import QwenConfig
from pitcrew_builder.manifest import ResolvedShapes


class Qwen3Config(QwenConfig):
    """`model_type: qwen3`."""

    # Not hidden_size / heads: the family's own default.
    head_dim: int = Field(default=128, gt=0, le=1024, multiple_of=2)
    attention_bias: bool = False


def draw(config: Qwen3Config, shapes: ResolvedShapes) -> Decoder:
    """The network of a Qwen 3."""
    bias = config.attention_bias
    plain = replace(
        attention(config),
        qkv_bias=bias,
        output_bias=bias,
        head_norm_epsilon=config.rms_norm_eps,
    )
    layers = [
        DecoderLayer(replace(plain, window=window), gated_mlp(config), Norm(config.rms_norm_eps))
        for window in config.windows
    ]
    return decoder(frame(config, shapes, config.windows), layers)


FAMILY = Family(name="qwen3", config=Qwen3Config, draw=draw)
