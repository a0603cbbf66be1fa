"""The frame of a causal language model: embedding, layers, final norm, LM head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.blocks.step import BATCH, WANTED, Step, StepPlan, open_step
from pitcrew_builder.blocks.vocabulary import embedding, vocabulary_scores
from pitcrew_builder.graph.emitter import Emitter, Sources, as_they_are
from pitcrew_builder.graph.ir import ElementType, Graph, Value
from pitcrew_builder.layout import SOLE, Layout

ROWS = "rows"

Layer: TypeAlias = Callable[[Emitter, Value, int, Step], Value]
"""Draws layer `i`: rows [B * S, hidden] to rows [B * S, hidden]."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds the layers."""

    name: str
    hidden: int
    vocab: int
    norm: Norm
    tied: bool
    """The LM head is the embedding matrix."""
    step: StepPlan
    embedding_scale: float = 1.0
    """What the rows of the embedding are multiplied by."""
    logit_scale: float = 1.0
    """What the logits are multiplied by."""
    logit_cap: float | None = None
    """Logits are bent to stay between this and its negative."""
    sources: Sources = as_they_are
    """Where the checkpoint holds the tensors that the blocks name."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A network that can be drawn for any rank."""

    frame: Frame
    layer: Layer

    def graph(self, layout: Layout = SOLE) -> Graph:
        """What the rank at `layout` computes: `manifest.GraphInterface`, or a part of it."""
        frame = self.frame
        e = Emitter(frame.name, layout, frame.sources)
        step = open_step(e, frame.step)
        own = layout.layers(frame.step.cache.layers)
        rows = _embed(e, frame, step) if layout.is_first_stage else _taken_over(e, frame, own.start)
        for index in own:
            with e.scope(f"layers.{index}"):
                rows = self.layer(e, rows, index, step)
        if layout.is_last_stage:
            with e.scope("head"):
                logits = _head(e, frame, rows, step)
            e.output(logits, "logits", ElementType.FLOAT32, BATCH, WANTED, frame.vocab)
        else:
            e.output(rows, hand_over(own.stop), ElementType.FLOAT32, ROWS, frame.hidden)
        return e.graph()


def causal_lm(frame: Frame, layer: Layer) -> Decoder:
    """The whole network of `manifest.GraphInterface`."""
    return Decoder(frame, layer)


def hand_over(layer: int) -> str:
    """The name of the rows [B * S, hidden] that enter `layer`, on both sides of a stage's border."""
    return f"rows.{layer}"


def _taken_over(e: Emitter, frame: Frame, layer: int) -> Value:
    return e.input(hand_over(layer), ElementType.FLOAT32, ROWS, frame.hidden)


def _embed(e: Emitter, frame: Frame, step: Step) -> Value:
    """int64 [B, S] to rows [B * S, hidden]."""
    ids = e.op("Reshape", step.input_ids, e.ints(-1), name="flat_ids")
    rows = embedding(e, ids, "model.embed_tokens.weight", frame.vocab, frame.hidden)
    return _times(e, rows, frame.embedding_scale, "scaled_embed")


def _head(e: Emitter, frame: Frame, rows: Value, step: Step) -> Value:
    """Logits [B, K, vocab] of the wanted rows alone: the vocabulary is the widest matrix."""
    wanted = e.op("Gather", rows, _flat_indices(e, step), name="wanted", axis=0)
    normed = frame.norm.draw(e, wanted, "model.norm", frame.hidden)
    matrix = "model.embed_tokens" if frame.tied else "lm_head"
    logits = vocabulary_scores(e, normed, matrix, frame.hidden, frame.vocab)
    logits = _capped(e, _times(e, logits, frame.logit_scale, "scaled_logits"), frame.logit_cap)
    dims = e.op("Shape", step.logit_indices)
    return e.op("Reshape", logits, e.op("Concat", dims, e.ints(frame.vocab), axis=0))


def _times(e: Emitter, value: Value, factor: float, name: str) -> Value:
    return value if factor == 1.0 else e.op("Mul", value, e.float(factor), name=name)


def _capped(e: Emitter, logits: Value, cap: float | None) -> Value:
    if cap is None:
        return logits
    bent = e.op("Tanh", _times(e, logits, 1.0 / cap, "before_cap"))
    return _times(e, bent, cap, "capped_logits")


def _flat_indices(e: Emitter, step: Step) -> Value:
    """`logit_indices` [B, K] into S, as indices [B * K] into the B * S rows."""
    batch = e.op("Gather", step.dims, e.int(0), axis=0)
    length = e.op("Gather", step.dims, e.ints(1), axis=0)
    starts = e.op("Mul", e.op("Range", e.int(0), batch, e.int(1)), length, name="starts")
    shifted = e.op("Add", step.logit_indices, e.op("Unsqueeze", starts, e.ints(1)))
    return e.op("Reshape", shifted, e.ints(-1), name="flat_indices")
