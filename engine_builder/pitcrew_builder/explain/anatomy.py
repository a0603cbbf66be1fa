"""What a graph file holds: every stored tensor with its class, and every operator with its block.

Knows the ONNX file and nothing of how it was drawn. Functions are opened: an operator that is a
function counts as the operators of its body.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto

from pitcrew_builder.graph.parts import Part, layer_of, part_of

_BITS: Mapping[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
    TensorProto.DOUBLE: 64, TensorProto.INT64: 64, TensorProto.INT32: 32, TensorProto.INT8: 8,
    TensorProto.UINT8: 8, TensorProto.BOOL: 8, TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E5M2: 8, TensorProto.INT4: 4, TensorProto.UINT4: 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """One constant of the graph."""

    name: str
    part: Part
    layer: int | None
    type: str
    """In lower case, such as `float16`."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A graph, taken apart."""

    tensors: tuple[Stored, ...]
    blocks: Mapping[str, Counter[str]]
    """Outermost scope -> operator -> count, in the order of the graph."""

    @property
    def operators(self) -> Counter[str]:
        """Operator -> count, in the whole graph."""
        return sum(self.blocks.values(), Counter())


def dissect(graph: bytes) -> Anatomy:
    """Take a serialized ONNX model apart; its external data is not needed."""
    model = onnx.load_model_from_string(graph)
    return Anatomy(
        tuple(_stored(item) for item in model.graph.initializer),
        _blocks(model),
    )


def _stored(item: TensorProto) -> Stored:
    bits = _BITS.get(item.data_type, 32)
    nbytes = -(-math.prod(item.dims) * bits // 8)
    kind = TensorProto.DataType.Name(item.data_type).lower()
    kind = "float32" if kind == "float" else kind
    return Stored(item.name, part_of(item.name), layer_of(item.name), kind, nbytes)


def _blocks(model: ModelProto) -> dict[str, Counter[str]]:
    functions = {(item.domain, item.name): item for item in model.functions}
    blocks: dict[str, Counter[str]] = {}
    for node in model.graph.node:
        scope = node.name.partition("/")[0] if "/" in node.name else ""
        blocks.setdefault(scope, Counter()).update(_opened(node, functions))
    return blocks


def _opened(node: NodeProto, functions: Mapping[tuple[str, str], FunctionProto]) -> Iterator[str]:
    function = functions.get((node.domain, node.op_type))
    if function is None:
        yield f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        return
    for inner in function.node:
        yield from _opened(inner, functions)
