"""The common layer: norm, attention, residual; norm, feed-forward, residual."""

from dataclasses import dataclass

from pitcrew_builder.blocks.attention import Attention, attention
from pitcrew_builder.blocks.linear import rms_norm
from pitcrew_builder.blocks.mlp import GatedMlp, gated_mlp
from pitcrew_builder.blocks.step import Step
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


@dataclass(frozen=True, slots=True)
class PreNormLayer:
    """A layer that normalizes before each of its two blocks."""

    attention: Attention
    mlp: GatedMlp
    epsilon: float

    def draw(self, e: Emitter, rows: Value, index: int, step: Step) -> Value:
        """Rows [B * S, hidden] through layer `index`."""
        prefix, width = f"model.layers.{index}", self.attention.hidden
        normed = rms_norm(e, rows, f"{prefix}.input_layernorm", width, self.epsilon)
        mixed = attention(e, self.attention, normed, f"{prefix}.self_attn", index, step)
        rows = e.op("Add", rows, mixed, name="attention_residual")
        normed = rms_norm(e, rows, f"{prefix}.post_attention_layernorm", width, self.epsilon)
        return e.op("Add", rows, gated_mlp(e, self.mlp, normed, f"{prefix}.mlp"), name="residual")
