"""The bytes of a graph's constants, as they stand in a data file: streamed, whatever their size."""

from collections.abc import Iterator, Mapping

import numpy as np

from pitcrew_builder.checkpoint.assemble import Assembler
from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.graph.ir import Array, ElementType, Graph, Literal, Weight
from pitcrew_builder.graph.proto import is_inline
from pitcrew_builder.graph.recipe import TensorRef

HALVES: Mapping[str, ElementType] = {"BF16": ElementType.BFLOAT16, "F16": ElementType.FLOAT16}
"""Types that have only half of a float32's bits, by the names of safetensors."""


def stored(graph: Graph) -> Iterator[Weight | Literal]:
    """The constants that do not stand in the graph's proto itself, in graph order."""
    yield from graph.weights
    yield from (literal for literal in graph.literals if not is_inline(literal))


def nbytes(item: Weight | Literal) -> int:
    """Bytes of a constant."""
    return item.nbytes if isinstance(item, Weight) else item.array.nbytes


def blocks(
    item: Weight | Literal, tensors: Mapping[str, TensorInfo], reader: WeightReader
) -> Iterator[memoryview]:
    """The bytes of one constant; every block is valid until the next one is asked for.

    Raises `CheckpointCorrupt` as the reader does, and `InvalidSpec` where a number does not fit.
    """
    if isinstance(item, Literal):
        yield memoryview(item.array.tobytes())
        return
    assembler = Assembler(tensors, reader)
    for part in item.parts:
        if isinstance(part, TensorRef) and item.type.is_encoded:
            yield from reader.raw(tensors[part.name])
            continue
        if isinstance(part, TensorRef) and item.type is HALVES.get(tensors[part.name].dtype):
            yield from reader.halves(tensors[part.name])
            continue
        for chunk in assembler.stream(part):
            yield _stored_as(item, chunk).reshape(-1).view(np.uint8).data


def _stored_as(weight: Weight, chunk: Array) -> Array:
    """The chunk in the weight's own type. Raises `InvalidSpec` where that type is too narrow."""
    if chunk.dtype == weight.type.dtype:
        return chunk
    with np.errstate(over="ignore"):
        narrow = chunk.astype(weight.type.dtype)
    if not np.isfinite(narrow).all():
        raise InvalidSpec(
            f"precision: weight '{weight.name}' holds {np.abs(chunk).max():.3g}, more than "
            f"{weight.type} can; choose bf16 or fp32"
        )
    return narrow
