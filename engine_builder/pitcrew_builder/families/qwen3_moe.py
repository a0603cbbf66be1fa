"""Qwen 3 MoE: a Qwen 3 whose layers are, by a pattern, mixtures of experts or dense."""

from dataclasses import replace

from pydantic import AliasChoices, Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer, FeedForward
from pitcrew_builder.blocks.moe import MixtureOfExperts
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.families.mixture import check_experts
from pitcrew_builder.families.refusal import require
from pitcrew_builder.manifest import ResolvedShapes


class Qwen3MoeConfig(DecoderConfig):
    """`model_type: qwen3_moe`."""

    num_key_value_heads: int = Field(default=4, gt=0, le=1024)
    max_position_embeddings: int = Field(default=32768, gt=1)
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = Field(default=4096, gt=0)
    moe_intermediate_size: int = Field(default=768, gt=0, le=1 << 19)
    num_experts: int = Field(
        default=128,
        ge=0,
        le=4096,
        validation_alias=AliasChoices("num_experts", "num_local_experts"),
    )
    num_experts_per_tok: int = Field(default=8, gt=0)
    norm_topk_prob: bool = False
    decoder_sparse_step: int = Field(default=1, gt=0)
    mlp_only_layers: tuple[int, ...] = ()

    @property
    def experts(self) -> int:
        """Experts of each mixture."""
        return self.num_experts

    @property
    def feed_forward_widths(self) -> tuple[int, ...]:
        """Those of the kinds of layers that there are."""
        kinds = {self.is_mixture(layer) for layer in range(self.num_hidden_layers)}
        widths = {True: self.moe_intermediate_size, False: self.intermediate_size}
        return tuple(widths[kind] for kind in sorted(kinds))

    def is_mixture(self, layer: int) -> bool:
        """Whether that layer has experts."""
        on_step = (layer + 1) % self.decoder_sparse_step == 0
        return self.num_experts > 0 and on_step and layer not in self.mlp_only_layers


def draw(config: Qwen3MoeConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a Qwen 3 MoE."""
    bias = config.attention_bias
    window = config.sliding_window if config.use_sliding_window else None
    mixer = replace(
        attention(config),
        qkv_bias=bias,
        output_bias=bias,
        head_norm_epsilon=config.rms_norm_eps,
        window=window,
    )
    layers = [
        DecoderLayer(mixer, _feed_forward(config, index), Norm(config.rms_norm_eps))
        for index in range(config.num_hidden_layers)
    ]
    return decoder(frame(config, shapes, [window]), layers)


def _feed_forward(config: Qwen3MoeConfig, layer: int) -> FeedForward:
    if not config.is_mixture(layer):
        return gated_mlp(config)
    require(config, "hidden_act", config.hidden_act, "silu")
    check_experts(config, config.num_experts_per_tok, config.num_experts)
    return MixtureOfExperts(
        hidden=config.hidden_size,
        intermediate=config.moe_intermediate_size,
        experts=config.num_experts,
        chosen=config.num_experts_per_tok,
        normalized=config.norm_topk_prob,
    )


FAMILY = Family(name="qwen3_moe", config=Qwen3MoeConfig, draw=draw)
