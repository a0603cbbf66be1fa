"""The two ends of a language model, each rank holding the rows of its own tokens.

Where the vocabulary is no multiple of the ranks, the last one holds fewer rows: weights are not
padded, only the last rank's logits are, and the surplus is cut off after they were gathered.
"""

from pitcrew_builder.blocks.linear import Outputs, linear
from pitcrew_builder.graph.collectives import all_gather, all_reduce
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


def embedding(e: Emitter, ids: Value, name: str, vocab: int, hidden: int) -> Value:
    """int64 [T] to rows [T, hidden]. A rank adds zeros for tokens that are not its own."""
    own = e.layout.vocabulary(vocab)
    matrix = e.weight(name, vocab, hidden, parts={0: own})
    if len(own) == vocab:
        return e.op("Gather", matrix, ids, name="embed", axis=0)
    local = e.op("Sub", ids, e.int(own.start), name="local_ids")
    clipped = e.op("Clip", local, e.int(0), e.int(len(own) - 1), name="clipped_ids")
    rows = e.op("Gather", matrix, clipped, name="embed", axis=0)
    is_own = e.op("Unsqueeze", e.op("Equal", local, clipped), e.ints(1), name="is_own")
    masked = e.op("Where", is_own, rows, e.float(0.0), name="own_rows")
    return all_reduce(e, masked, e.layout.tensor_group)


def vocabulary_scores(e: Emitter, rows: Value, name: str, hidden: int, vocab: int) -> Value:
    """Rows [T, hidden] to a score of every token [T, vocab], on every rank."""
    own, width = e.layout.vocabulary(vocab), e.layout.vocabulary_width(vocab)
    scores = linear(e, rows, name, hidden, vocab, bias=False, split=Outputs(own))
    if width * e.layout.degrees.tensor == vocab:
        return all_gather(e, scores, e.layout.tensor_group)
    # What is gathered has one name on all ranks, those without surplus too.
    surplus = (_right(e, width - len(own)),) if len(own) < width else ()
    scores = e.op("Pad" if surplus else "Identity", scores, *surplus, name="padded")
    scores = all_gather(e, scores, e.layout.tensor_group)
    return e.op("Slice", scores, e.ints(0), e.ints(vocab), e.ints(1), name="scores")


def _right(e: Emitter, count: int) -> Value:
    """Padding of the last of two axes, at its end."""
    return e.ints(0, 0, 0, count)
