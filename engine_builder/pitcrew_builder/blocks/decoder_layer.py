"""One layer: attention and a feed-forward block, each normalized before, after, or both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pitcrew_builder.blocks.attention import Attention, attention
from pitcrew_builder.blocks.causal_lm import Layer
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.blocks.step import Step
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


class FeedForward(Protocol):
    """What follows attention."""

    def draw(self, e: Emitter, rows: Value, prefix: str) -> Value:
        """[T, hidden] to [T, hidden]."""
        ...


@dataclass(frozen=True, slots=True)
class NormNames:
    """What the checkpoint calls the norms of a layer; None where there is no such norm."""

    before_attention: str | None
    after_attention: str | None
    before_mlp: str | None
    after_mlp: str | None


PRE_NORM = NormNames("input_layernorm", None, "post_attention_layernorm", None)
POST_NORM = NormNames(None, "post_attention_layernorm", None, "post_feedforward_layernorm")
SANDWICH = NormNames(
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """A layer whose two blocks each add to the rows that pass by."""

    attention: Attention
    mlp: FeedForward
    norm: Norm
    norms: NormNames = PRE_NORM
    residual: float = 1.0
    """What a block's output is multiplied by before it is added."""

    def draw(self, e: Emitter, rows: Value, index: int, step: Step) -> Value:
        """Rows [B * S, hidden] through layer `index`."""
        prefix = f"model.layers.{index}"
        mixed = self._norm(e, rows, prefix, self.norms.before_attention)
        mixed = attention(e, self.attention, mixed, f"{prefix}.self_attn", index, step)
        mixed = self._norm(e, mixed, prefix, self.norms.after_attention)
        rows = self._add(e, rows, mixed, "attention_residual")
        mixed = self._norm(e, rows, prefix, self.norms.before_mlp)
        mixed = self.mlp.draw(e, mixed, f"{prefix}.mlp")
        mixed = self._norm(e, mixed, prefix, self.norms.after_mlp)
        return self._add(e, rows, mixed, "residual")

    def _norm(self, e: Emitter, rows: Value, prefix: str, name: str | None) -> Value:
        if name is None:
            return rows
        return self.norm.draw(e, rows, f"{prefix}.{name}", self.attention.hidden)

    def _add(self, e: Emitter, rows: Value, mixed: Value, name: str) -> Value:
        if self.residual != 1.0:
            mixed = e.op("Mul", mixed, e.float(self.residual), name="weighted")
        return e.op("Add", rows, mixed, name=name)


def stack(layers: Sequence[DecoderLayer]) -> Layer:
    """Layers that differ from each other, by index."""

    def draw(e: Emitter, rows: Value, index: int, step: Step) -> Value:
        return layers[index].draw(e, rows, index, step)

    return draw
