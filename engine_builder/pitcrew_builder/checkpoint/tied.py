"""Whether embedding and LM head are one matrix, where a configuration says so.

Fine-tuned checkpoints sometimes hold two and still say `tie_word_embeddings`. transformers 5 then
uses both, so the tensors decide here too; and whichever of the two is there alone serves as both.
"""

from collections.abc import Mapping

from pitcrew_builder.checkpoint.reader import READABLE, WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def with_embedding(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a tied checkpoint, the head under the embedding's name where that is missing."""
    if EMBEDDING in tensors or HEAD not in tensors:
        return tensors
    return {EMBEDDING if name == HEAD else name: info for name, info in tensors.items()}


def are_apart(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the two are there and differ. Reads both, up to the first difference.

    Raises `CheckpointCorrupt` as `WeightReader.chunks`.
    """
    embedding, head = tensors.get(EMBEDDING), tensors.get(HEAD)
    if embedding is None or head is None:
        return False
    if embedding.shape != head.shape or not {embedding.dtype, head.dtype} <= READABLE.keys():
        return True
    with WeightReader() as one, WeightReader() as other:
        pairs = zip(one.chunks(embedding), other.chunks(head), strict=True)
        return any((a != b).any() for a, b in pairs)
