"""OLMo 2: norms after the blocks, queries and keys normalized over all their heads together."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import POST_NORM, DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.manifest import ResolvedShapes


class Olmo2Config(DecoderConfig):
    """`model_type: olmo2`."""

    rms_norm_eps: float = Field(default=1e-5, gt=0)
    attention_bias: bool = False


def draw(config: Olmo2Config, shapes: ResolvedShapes) -> Decoder:
    """The network of an OLMo 2."""
    mixer = replace(
        attention(config),
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        whole_norm_epsilon=config.rms_norm_eps,
    )
    layer = DecoderLayer(mixer, gated_mlp(config), Norm(config.rms_norm_eps), POST_NORM)
    return decoder(frame(config, shapes), [layer] * config.num_hidden_layers)


FAMILY = Family(name="olmo2", config=Olmo2Config, draw=draw)
