"""The frame of a causal language model: embedding, layers, final norm, LM head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pitcrew_builder.blocks.linear import linear, rms_norm
from pitcrew_builder.blocks.rope import Rope
from pitcrew_builder.blocks.step import BATCH, WANTED, CacheLayout, Step, open_step
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import ElementType, Graph, Value

Layer: TypeAlias = Callable[[Emitter, Value, int, Step], Value]
"""Draws layer `i`: rows [B * S, hidden] to rows [B * S, hidden]."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What surrounds the layers."""

    name: str
    hidden: int
    vocab: int
    norm_epsilon: float
    tied: bool
    """The LM head is the embedding matrix."""
    rope: Rope
    cache: CacheLayout
    max_length: int


def causal_lm(frame: Frame, layer: Layer) -> Graph:
    """Draw the whole network of `manifest.GraphInterface`."""
    e = Emitter(frame.name)
    step = open_step(e, frame.cache, frame.rope, frame.max_length)
    rows = _embed(e, frame, step)
    for index in range(frame.cache.layers):
        with e.scope(f"layers.{index}"):
            rows = layer(e, rows, index, step)
    with e.scope("head"):
        logits = _head(e, frame, rows, step)
    e.output(logits, "logits", ElementType.FLOAT32, BATCH, WANTED, frame.vocab)
    return e.graph()


def _embed(e: Emitter, frame: Frame, step: Step) -> Value:
    """int64 [B, S] to rows [B * S, hidden]."""
    matrix = e.weight("model.embed_tokens.weight", frame.vocab, frame.hidden)
    ids = e.op("Reshape", step.input_ids, e.ints(-1), name="flat_ids")
    return e.op("Gather", matrix, ids, name="embed", axis=0)


def _head(e: Emitter, frame: Frame, rows: Value, step: Step) -> Value:
    """Logits [B, K, vocab] of the wanted rows alone: the vocabulary is the widest matrix."""
    wanted = e.op("Gather", rows, _flat_indices(e, step), name="wanted", axis=0)
    normed = rms_norm(e, wanted, "model.norm", frame.hidden, frame.norm_epsilon)
    matrix = "model.embed_tokens" if frame.tied else "lm_head"
    logits = linear(e, normed, matrix, frame.hidden, frame.vocab, bias=False)
    dims = e.op("Shape", step.logit_indices)
    return e.op("Reshape", logits, e.op("Concat", dims, e.ints(frame.vocab), axis=0))


def _flat_indices(e: Emitter, step: Step) -> Value:
    """`logit_indices` [B, K] into S, as indices [B * K] into the B * S rows."""
    batch = e.op("Gather", step.dims, e.int(0), axis=0)
    length = e.op("Gather", step.dims, e.ints(1), axis=0)
    starts = e.op("Mul", e.op("Range", e.int(0), batch, e.int(1)), length, name="starts")
    shifted = e.op("Add", step.logit_indices, e.op("Unsqueeze", starts, e.ints(1)))
    return e.op("Reshape", shifted, e.ints(-1), name="flat_indices")
