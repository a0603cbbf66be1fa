"""Gemma 2: norms around both blocks, every other layer with a window, scores and logits capped."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.attention import Attention
from pitcrew_builder.blocks.causal_lm import Decoder, Frame
from pitcrew_builder.blocks.decoder_layer import SANDWICH, DecoderLayer
from pitcrew_builder.blocks.mlp import GatedMlp
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, activation, attention, decoder, frame
from pitcrew_builder.families.refusal import require
from pitcrew_builder.families.windows import FULL, SLIDING, windows_of
from pitcrew_builder.graph.recipe import Plus, Source, TensorRef
from pitcrew_builder.manifest import ResolvedShapes


class GemmaConfig(DecoderConfig):
    """What Gemma 2 and 3 describe alike."""

    num_key_value_heads: int = Field(default=4, gt=0, le=1024)
    head_dim: int = Field(default=256, gt=0, le=1024, multiple_of=2)
    hidden_activation: str = "gelu_pytorch_tanh"
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    query_pre_attn_scalar: float = Field(default=256, gt=0)
    sliding_window: int | None = Field(default=4096, gt=0)
    layer_types: tuple[str, ...] | None = None
    final_logit_softcapping: float | None = Field(default=None, gt=0)
    use_bidirectional_attention: bool | None = None

    @property
    def score_scale(self) -> float:
        """What attention scores are multiplied by."""
        return float(self.query_pre_attn_scalar**-0.5)


class Gemma2Config(GemmaConfig):
    """`model_type: gemma2`."""

    max_position_embeddings: int = Field(default=8192, gt=1)
    final_logit_softcapping: float | None = Field(default=30.0, gt=0)
    attn_logit_softcapping: float | None = Field(default=50.0, gt=0)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer: the first, third and so on, unless they are listed."""
        types = self.layer_types or [
            FULL if index % 2 else SLIDING for index in range(self.num_hidden_layers)
        ]
        return windows_of(self, types, self.sliding_window)


def draw(config: Gemma2Config, shapes: ResolvedShapes) -> Decoder:
    """The network of a Gemma 2."""
    plain = replace(gemma_attention(config), softcap=config.attn_logit_softcapping)
    layers = [
        DecoderLayer(
            replace(plain, window=window), gemma_mlp(config), Norm(config.rms_norm_eps), SANDWICH
        )
        for window in config.windows
    ]
    return decoder(gemma_frame(config, frame(config, shapes, config.windows)), layers)


def gemma_attention(config: GemmaConfig) -> Attention:
    """Causal attention whose scores have a scale of their own. Refuses the other kind."""
    require(config, "use_bidirectional_attention", bool(config.use_bidirectional_attention), False)
    return replace(
        attention(config),
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        scale=config.score_scale,
    )


def gemma_mlp(config: GemmaConfig) -> GatedMlp:
    """A gated block; only `hidden_activation` counts."""
    act = activation(config, "hidden_activation", config.hidden_activation)
    return GatedMlp(config.hidden_size, config.intermediate_size, activation=act)


def gemma_frame(config: GemmaConfig, plain: Frame) -> Frame:
    """Embeddings scaled by the root of their width, logits capped, norms that hold weight - 1."""
    return replace(
        plain,
        embedding_scale=config.hidden_size**0.5,
        logit_cap=config.final_logit_softcapping,
        sources=_sources,
    )


def _sources(tensor: TensorRef) -> Source:
    """Checkpoints hold how far a norm's weight is from 1."""
    return Plus(tensor, 1.0) if tensor.name.endswith("norm.weight") else tensor


FAMILY = Family(name="gemma2", config=Gemma2Config, draw=draw)
