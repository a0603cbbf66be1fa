"""Phi 3 and 4: projections fused in the checkpoint, parts of heads rotated, two sets of factors."""

import re
from dataclasses import replace
from typing import Any

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder, Frame
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.checkpoint.rope import LONGROPE
from pitcrew_builder.families.family import Family, attention, decoder, frame, gated_mlp
from pitcrew_builder.families.refusal import unsupported
from pitcrew_builder.families.rotation import rope_of
from pitcrew_builder.graph.emitter import Sources
from pitcrew_builder.graph.recipe import Rows, Source, TensorRef
from pitcrew_builder.manifest import ResolvedShapes


class Phi3Config(DecoderConfig):
    """`model_type: phi3`, which Phi 4 carries too."""

    max_position_embeddings: int = Field(default=4096, gt=1)
    original_max_position_embeddings: int = Field(default=4096, gt=1)
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    sliding_window: int | None = Field(default=None, gt=0)

    @property
    def rotated(self) -> int:
        """The elements of a head that are rotated. Raises `UnknownArchitecture` for odd numbers."""
        part = self.rope_parameters.partial_rotary_factor
        count = int(self.head_dim * part)
        if count % 2 or not count:
            told = f"a part of head_dim ({self.head_dim}) with an even number of elements"
            raise unsupported(self, "partial_rotary_factor", part, told)
        return count

    @classmethod
    def _rope(cls, known: dict[str, Any]) -> dict[str, Any]:
        known.setdefault("original_max_position_embeddings", 4096)
        rope = super()._rope(known)
        # Early checkpoints call LongRoPE so; the models' own code reads them alike.
        if rope.get("rope_type") in ("su", "yarn"):
            rope["rope_type"] = LONGROPE
        return rope


def draw(config: Phi3Config, shapes: ResolvedShapes) -> Decoder:
    """The network of a Phi 3."""
    layer = DecoderLayer(
        replace(attention(config), window=config.sliding_window),
        gated_mlp(config),
        Norm(config.rms_norm_eps),
    )
    return decoder(_frame(config, shapes), [layer] * config.num_hidden_layers)


def _frame(config: Phi3Config, shapes: ResolvedShapes) -> Frame:
    length = shapes.max_sequence_length
    main = rope_of(config, config.rope_parameters, config.rotated, length)
    plain = frame(config, shapes, [config.sliding_window], main)
    return replace(plain, sources=_sources(config))


def _sources(config: Phi3Config) -> Sources:
    """Where our q, k, v, gate and up projections lie in the fused ones."""
    query = config.num_attention_heads * config.head_dim
    kv, wide = config.num_key_value_heads * config.head_dim, config.intermediate_size
    places = {
        "q_proj": ("qkv_proj", 0, query + 2 * kv),
        "k_proj": ("qkv_proj", query, query + 2 * kv),
        "v_proj": ("qkv_proj", query + kv, query + 2 * kv),
        "gate_proj": ("gate_up_proj", 0, 2 * wide),
        "up_proj": ("gate_up_proj", wide, 2 * wide),
    }

    def sources(tensor: TensorRef) -> Source:
        found = re.fullmatch(r"(.+\.)(\w+)\.weight", tensor.name)
        if found is None or found[2] not in places:
            return tensor
        name, start, total = places[found[2]]
        fused = TensorRef(f"{found[1]}{name}.weight", (total, *tensor.shape[1:]))
        return Rows(fused, start, start + tensor.shape[0])

    return sources


FAMILY = Family(
    name="phi3",
    config=Phi3Config,
    draw=draw,
    # transformers took these classes in and runs its own in their place, too.
    known_code=frozenset(
        {"configuration_phi3.Phi3Config", "modeling_phi3.Phi3ForCausalLM", "Xenova/gpt-4o"}
    ),
)
