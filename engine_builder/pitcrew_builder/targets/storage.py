"""Matrices that an engine keeps as narrow as their checkpoint does: passes from `Graph` to `Graph`.

ONNX Runtime computes in float32 on a CPU, and half of every float32 that was a bfloat16 is zeros. So
the half is stored, and a `Cast` widens it when a session is loaded, which costs no memory: ONNX
Runtime packs the widened matrix and drops it, as it packs and drops one of a file. Where rows are
looked up the table stays narrow, and the rows are widened. Every number is the same either way.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.constants import HALVES
from pitcrew_builder.graph.ir import ElementType, Graph, Kinds, Node, Value, Weight
from pitcrew_builder.graph.proto import Extent, data_name
from pitcrew_builder.graph.recipe import TensorRef, is_exact

_NAMES = {ElementType.FLOAT32: "F32"} | {kind: name for name, kind in HALVES.items()}
_ONNX_FLOAT = 1
"""Of ONNX's `TensorProto.DataType`."""
_CODED = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""Operators that runtimes know by their scales: nothing may stand between."""


def kept_kinds(graph: Graph, dtype_of: Callable[[str], str]) -> Kinds:
    """The matrices of a float32 graph whose numbers are a checkpoint's halves, moved or joined.

    `dtype_of` a tensor's name is its type in safetensors' words.
    """
    coded = {name for node in graph.nodes if node.op in _CODED for name in node.inputs}
    matrices = [weight for weight in graph.weights if len(weight.shape) > 1]
    found = {each.name: _kind(each, dtype_of) for each in matrices if each.name not in coded}
    return {name: kind for name, kind in found.items() if kind is not None}


def _kind(weight: Weight, dtype_of: Callable[[str], str]) -> ElementType | None:
    if weight.type is not ElementType.FLOAT32 or not all(map(is_exact, weight.parts)):
        return None
    types = {dtype_of(tensor.name) for tensor in weight.tensors}
    return HALVES.get(types.pop()) if len(types) == 1 else None


def as_stored(graph: Graph, kinds: Kinds) -> Graph:
    """The graph that stores its weights by `kinds` and widens them where they are read."""
    return replace(
        graph,
        nodes=tuple(_widened(graph.nodes, kinds)),
        weights=tuple(_stored(weight, kinds) for weight in graph.weights),
    )


def _stored(weight: Weight, kinds: Kinds) -> Weight:
    kind = kinds.get(weight.name)
    return weight if kind is None else replace(weight, name=_name(weight.name, kind), type=kind)


def _name(weight: Value, kind: ElementType) -> Value:
    return Value(f"{weight}/{kind}")


def _widened(nodes: tuple[Node, ...], kinds: Kinds) -> Iterator[Node]:
    done: set[Value] = set()
    for node in nodes:
        if node.op == "Gather" and node.inputs[0] in kinds and not node.attribute("axis"):
            table, *rows = node.inputs
            narrow = Value(f"{node.outputs[0]}/narrow")
            source = _name(table, kinds[table])
            yield replace(node, inputs=(source, *rows), outputs=(narrow,))
            yield _cast(f"{node.name}/widen", narrow, node.outputs[0])
            continue
        for name in node.inputs:
            if name in kinds and name not in done:
                done.add(name)
                yield _cast(f"{node.name}/widen.{len(done)}", _name(name, kinds[name]), name)
        yield node


def _cast(name: str, source: Value, result: Value) -> Node:
    return Node("Cast", name, (source,), (result,), (("to", _ONNX_FLOAT),))


def read_back(
    graph: Graph, kinds: Kinds, extents: Mapping[Value, Extent], stem: Path
) -> tuple[Graph, dict[str, TensorInfo]]:
    """The float32 graph over the data files of a written engine, in place of the checkpoint's.

    `extents` places the weights of `as_stored(graph, kinds)` in files that are called after `stem`.
    """
    weights, tensors = [], {}
    for weight in graph.weights:
        stored = _stored(weight, kinds)
        extent = extents[stored.name]
        file = stem.with_name(data_name(stem.name, extent.file))
        name, dtype = str(stored.name), _NAMES[stored.type]
        tensors[name] = TensorInfo(name, dtype, weight.shape, file, extent.offset, extent.length)
        weights.append(Weight(weight.name, (TensorRef(name, weight.shape),)))
    return replace(graph, weights=tuple(weights)), tensors
