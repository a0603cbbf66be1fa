"""StarCoder 2: layer norms, biases everywhere, a feed-forward block without gate, a window."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.mlp import PlainMlp
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, activation, attention, decoder, frame
from pitcrew_builder.manifest import ResolvedShapes


class Starcoder2Config(DecoderConfig):
    """`model_type: starcoder2`."""

    num_key_value_heads: int = Field(default=2, gt=0, le=1024)
    max_position_embeddings: int = Field(default=4096, gt=1)
    hidden_act: str = "gelu_pytorch_tanh"
    norm_epsilon: float = Field(default=1e-5, gt=0)
    sliding_window: int | None = Field(default=None, gt=0)
    use_bias: bool = True
    tie_word_embeddings: bool = True


def draw(config: Starcoder2Config, shapes: ResolvedShapes) -> Decoder:
    """The network of a StarCoder 2."""
    bias, norm = config.use_bias, Norm(config.norm_epsilon, centred=True)
    act = activation(config, "hidden_act", config.hidden_act)
    window = config.sliding_window
    layer = DecoderLayer(
        replace(attention(config), qkv_bias=bias, output_bias=bias, window=window),
        PlainMlp(config.hidden_size, config.intermediate_size, bias, act),
        norm,
    )
    whole = replace(frame(config, shapes, [window]), norm=norm)
    return decoder(whole, [layer] * config.num_hidden_layers)


FAMILY = Family(name="starcoder2", config=Starcoder2Config, draw=draw)
