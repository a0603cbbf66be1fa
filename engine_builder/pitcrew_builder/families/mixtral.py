"""Mixtral: a Mistral whose feed-forward blocks are mixtures of experts."""

from dataclasses import replace

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.moe import MixtureOfExperts
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame
from pitcrew_builder.families.mixture import check_experts
from pitcrew_builder.families.refusal import require
from pitcrew_builder.graph.recipe import Source, TensorRef
from pitcrew_builder.manifest import ResolvedShapes

_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


class MixtralConfig(DecoderConfig):
    """`model_type: mixtral`."""

    default_theta = 1000000.0

    num_key_value_heads: int = Field(default=8, gt=0, le=1024)
    max_position_embeddings: int = Field(default=131072, gt=1)
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    sliding_window: int | None = Field(default=None, gt=0)
    num_local_experts: int = Field(default=8, gt=0, le=4096)
    num_experts_per_tok: int = Field(default=2, gt=0)

    @property
    def experts(self) -> int:
        """Experts of each mixture."""
        return self.num_local_experts


def draw(config: MixtralConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a Mixtral."""
    require(config, "hidden_act", config.hidden_act, "silu")
    check_experts(config, config.num_experts_per_tok, config.num_local_experts)
    layer = DecoderLayer(
        replace(attention(config), window=config.sliding_window),
        MixtureOfExperts(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            experts=config.num_local_experts,
            chosen=config.num_experts_per_tok,
        ),
        Norm(config.rms_norm_eps),
    )
    whole = replace(frame(config, shapes, [config.sliding_window]), sources=_sources)
    return decoder(whole, [layer] * config.num_hidden_layers)


def _sources(tensor: TensorRef) -> Source:
    """Mixtral calls the block `block_sparse_moe` and an expert's matrices w1, w2 and w3."""
    name = tensor.name.replace(".mlp.", ".block_sparse_moe.")
    for ours, theirs in _NAMES.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    return replace(tensor, name=name)


FAMILY = Family(name="mixtral", config=MixtralConfig, draw=draw)
