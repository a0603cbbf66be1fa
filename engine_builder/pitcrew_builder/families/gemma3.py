"""Gemma 3 (text): a Gemma 2 with normalized heads, and a rotation of its own where windows are.

Its configs may name a cap of attention scores, which the models' own code does not apply.
"""

from dataclasses import replace
from typing import Any

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder, Frame
from pitcrew_builder.blocks.decoder_layer import SANDWICH, DecoderLayer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.blocks.step import LOCAL, MAIN
from pitcrew_builder.checkpoint.rope import (
    LONGROPE,
    RopeParameters,
    completed,
    rope_section,
)
from pitcrew_builder.families.family import Family, decoder, frame
from pitcrew_builder.families.gemma2 import GemmaConfig, gemma_attention, gemma_frame, gemma_mlp
from pitcrew_builder.families.refusal import unsupported
from pitcrew_builder.families.rotation import rope_of
from pitcrew_builder.families.windows import FULL, SLIDING, windows_of
from pitcrew_builder.manifest import ResolvedShapes

GLOBAL_THETA, LOCAL_THETA = 1000000.0, 10000.0


class Gemma3Config(GemmaConfig):
    """`model_type: gemma3_text`, whose published configs leave many sizes to these defaults."""

    vocab_size: int = Field(default=262208, gt=1, le=1 << 22)
    hidden_size: int = Field(default=2304, gt=0, le=1 << 17)
    intermediate_size: int = Field(default=9216, gt=0, le=1 << 19)
    num_hidden_layers: int = Field(default=26, gt=0, le=1024)
    num_attention_heads: int = Field(default=8, gt=0, le=1024)
    max_position_embeddings: int = Field(default=131072, gt=1)
    sliding_window_pattern: int = Field(default=6, gt=0)
    local_rope_parameters: RopeParameters = RopeParameters()

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer: all but every sixth, unless they are listed."""
        types = self.layer_types or [
            SLIDING if (index + 1) % self.sliding_window_pattern else FULL
            for index in range(self.num_hidden_layers)
        ]
        return windows_of(self, types, self.sliding_window)

    @classmethod
    def _rope(cls, known: dict[str, Any]) -> dict[str, Any]:
        """The rotation of layers without window; that of the others is added to `known`."""
        nested = rope_section(known, "rope_parameters")
        stated = rope_section(nested, FULL) or rope_section(known, "rope_scaling")
        local = {
            "rope_theta": known.get("rope_local_base_freq") or LOCAL_THETA,
            **rope_section(nested, SLIDING),
        }
        known["local_rope_parameters"] = _read(completed(local, {}, LOCAL_THETA))
        return _read(completed(stated, known, GLOBAL_THETA))


def _read(rope: dict[str, Any]) -> dict[str, Any]:
    """The keys that count: the models' own code does not look for `truncate` of a layer kind."""
    return {key: value for key, value in rope.items() if key != "truncate"}


def draw(config: Gemma3Config, shapes: ResolvedShapes) -> Decoder:
    """The network of a Gemma 3."""
    plain = replace(gemma_attention(config), head_norm_epsilon=config.rms_norm_eps)
    layers = [
        DecoderLayer(
            replace(plain, window=window, rope=LOCAL if window else MAIN),
            gemma_mlp(config),
            Norm(config.rms_norm_eps),
            SANDWICH,
        )
        for window in config.windows
    ]
    return decoder(_frame(config, shapes), layers)


def _frame(config: Gemma3Config, shapes: ResolvedShapes) -> Frame:
    plain = gemma_frame(config, frame(config, shapes, config.windows))
    local, length = config.local_rope_parameters, shapes.max_sequence_length
    if local.rope_type == LONGROPE:
        # Where short texts end is told by the rotation of the other layers.
        told = "default, linear, dynamic, llama3, yarn"
        raise unsupported(config, "rope_parameters.sliding_attention.rope_type", LONGROPE, told)
    ropes = {**plain.step.ropes, LOCAL: rope_of(config, local, config.head_dim, length)}
    return replace(plain, step=replace(plain.step, ropes=ropes))


FAMILY = Family(name="gemma3_text", config=Gemma3Config, draw=draw)
