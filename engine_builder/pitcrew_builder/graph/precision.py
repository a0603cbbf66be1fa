"""A drawn float32 network as the same network in half precision.

Every constant, cache and activation changes its type at once, so no conversion stands between two
operators. What the models themselves compute in float32 stays so: a norm's mean square (the
operator's own `stash_type`), attention's softmax (inside the attention kernel), a softmax that
stands alone (between two conversions), and the logits that leave.
"""

from dataclasses import replace

import numpy as np

from pitcrew_builder.graph.ir import (
    Array,
    ElementType,
    Function,
    Graph,
    Literal,
    Node,
    Port,
    Value,
)

FULL = ElementType.FLOAT32
_ONNX_FLOAT = 1
_ONNX_TYPES = {ElementType.FLOAT16: 10, ElementType.BFLOAT16: 16}
"""The values of ONNX's `TensorProto.DataType`, which `Cast` takes as an attribute."""

_LARGEST = {ElementType.FLOAT16: 65504.0, ElementType.BFLOAT16: 2.0**127}
"""The largest finite number of each, rounded down to a power of two where it does not matter."""

_IN_FLOAT32 = frozenset({"Softmax", "LogSoftmax"})
"""Operators whose sums of exponentials would lose too much."""

_KEPT = frozenset({"logits"})
"""Outputs of the graph that stay float32."""


def in_half(graph: Graph, kind: ElementType) -> Graph:
    """`graph`, drawn in float32, in `kind` (float16 or bfloat16)."""
    kept = {port.name for port in graph.outputs if port.name in _KEPT}
    return replace(
        graph,
        inputs=tuple(_port(port, kind) for port in graph.inputs),
        outputs=tuple(port if port.name in kept else _port(port, kind) for port in graph.outputs),
        nodes=tuple(_widen_outputs(_retype(graph.nodes, kind), kept)),
        weights=tuple(
            replace(weight, type=kind) if weight.type is FULL else weight
            for weight in graph.weights
        ),
        literals=tuple(_literal(literal, kind) for literal in graph.literals),
        functions=tuple(_function(function, kind) for function in graph.functions),
    )


def _port(port: Port, kind: ElementType) -> Port:
    return replace(port, type=kind) if port.type is FULL else port


def _literal(literal: Literal, kind: ElementType) -> Literal:
    if literal.array.dtype != FULL.dtype:
        return literal
    return Literal(literal.name, _narrowed(literal.array, kind))


def _narrowed(array: Array, kind: ElementType) -> Array:
    """Values beyond the type become half of its largest: a mask still leaves room for a score."""
    limit = _LARGEST[kind] / 2
    return np.clip(array, -limit, limit).astype(kind.dtype)


def _function(function: Function, kind: ElementType) -> Function:
    return replace(function, nodes=tuple(_retype(function.nodes, kind)))


def _retype(nodes: tuple[Node, ...], kind: ElementType) -> list[Node]:
    return [new for node in nodes for new in _retyped(node, kind)]


def _retyped(node: Node, kind: ElementType) -> list[Node]:
    if node.domain:
        return [node]
    if node.op == "Cast" and node.attribute("to") == _ONNX_FLOAT:
        return [replace(node, attributes=(("to", _ONNX_TYPES[kind]),))]
    if node.op in _IN_FLOAT32:
        return _between_casts(node, kind)
    return [node]


def _between_casts(node: Node, kind: ElementType) -> list[Node]:
    """A node of one input and one output, computed in float32."""
    wide, result = Value(f"{node.outputs[0]}/wide"), Value(f"{node.outputs[0]}/float32")
    return [
        _cast(f"{node.name}/widen", node.inputs[0], wide, _ONNX_FLOAT),
        replace(node, inputs=(wide,), outputs=(result,)),
        _cast(f"{node.name}/narrow", result, node.outputs[0], _ONNX_TYPES[kind]),
    ]


def _widen_outputs(nodes: list[Node], kept: set[Value]) -> list[Node]:
    """The nodes that name the kept outputs convert them."""
    return [
        _cast(node.name, node.inputs[0], node.outputs[0], _ONNX_FLOAT)
        if node.outputs[0] in kept
        else node
        for node in nodes
    ]


def _cast(name: str, source: Value, result: Value, to: int) -> Node:
    return Node("Cast", name, (source,), (result,), (("to", to),))
