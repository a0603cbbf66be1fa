"""Rewrites of the graph for the CPU target. Each keeps every output bit for bit in meaning.

Runtimes fuse chains of operators by themselves. What they cannot do is join matrices that lie
apart in the weights file; that is done here, where weights are still recipes.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable

import numpy as np

from pitcrew_builder.graph.ir import Graph, Literal, Node, Value, Weight
from pitcrew_builder.graph.recipe import PackedFloats, packed_in


def optimize(graph: Graph) -> Graph:
    """All rewrites, in order."""
    return join_projections(graph)


def join_projections(graph: Graph) -> Graph:
    """Turn `Gemm`s that read the same rows (Q, K and V; gate and up) into one `Gemm` and a `Split`.

    One wide product keeps all cores busy where several narrow ones would not, and the rows are
    packed once. Shared weights (a tied embedding) stay as they are.
    """
    weights = {weight.name: weight for weight in graph.weights}
    literals = list(graph.literals)
    nodes = list(graph.nodes)
    for group in _groups(graph, weights):
        joined, split, sizes = _join(group, weights)
        literals.append(sizes)
        position = nodes.index(group[0])
        nodes = [node for node in nodes if node not in group]
        nodes[position:position] = [joined, split]
    return _with_used_weights(graph, nodes, weights.values(), literals)


def _groups(graph: Graph, weights: dict[Value, Weight]) -> list[list[Node]]:
    uses: dict[Value, int] = defaultdict(int)
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] += 1
    groups: dict[tuple[object, ...], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        constants = node.inputs[1:]
        if node.op == "Gemm" and all(name in weights and uses[name] == 1 for name in constants):
            form = _form(weights[constants[0]])
            groups[node.inputs[0], len(constants), node.attributes, form].append(node)
    return [group for group in groups.values() if len(group) > 1]


def _form(matrix: Weight) -> Hashable:
    """What matrices that become one must share: numbers, or codes in the same groups of inputs."""
    packed = packed_in(matrix.parts[0])
    if packed is None:
        return None
    if isinstance(packed, PackedFloats):
        return packed.block, packed.input_scale is None
    # Each matrix has an order of its own.
    return matrix.name if packed.groups else (packed.bits, packed.group_count)


def _join(group: list[Node], weights: dict[Value, Weight]) -> tuple[Node, Node, Literal]:
    """The joined product, the split of its columns, and the widths of the split."""
    matrices = [weights[node.inputs[1]] for node in group]
    constants = [
        _joined_weight([weights[node.inputs[index]] for node in group], weights)
        for index in range(1, len(group[0].inputs))
    ]
    scope, _, first = group[0].name.rpartition("/")
    label = "+".join([first, *(node.name.rpartition("/")[2] for node in group[1:])])
    name = f"{scope}/{label}" if scope else label
    whole, widths = Value(name), Value(f"{name}/widths")
    sizes = Literal(widths, np.array([matrix.shape[0] for matrix in matrices], dtype=np.int64))
    product = Node("Gemm", name, (group[0].inputs[0], *constants), (whole,), group[0].attributes)
    outputs = tuple(node.outputs[0] for node in group)
    return product, Node("Split", f"{name}/split", (whole, widths), outputs, (("axis", 1),)), sizes


def _joined_weight(parts: list[Weight], weights: dict[Value, Weight]) -> Value:
    name = Value("+".join(part.name for part in parts))
    weights[name] = Weight(name, tuple(ref for part in parts for ref in part.parts))
    return name


def _with_used_weights(
    graph: Graph, nodes: list[Node], weights: Iterable[Weight], literals: list[Literal]
) -> Graph:
    used = {name for node in nodes for name in node.inputs}
    return Graph(
        name=graph.name,
        inputs=graph.inputs,
        outputs=graph.outputs,
        nodes=tuple(nodes),
        weights=tuple(weight for weight in weights if weight.name in used),
        literals=tuple(literals),
        functions=graph.functions,
    )
