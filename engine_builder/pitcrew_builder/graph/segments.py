"""Cutting a rank's graph at its collectives, for executors that run one rank at a time.

Between two collectives a rank computes alone. A segment is everything that can be computed once the
exchanges of all segments before it are done; what a later one needs of it becomes its output.

A compiler for GPUs takes lengths, which are integers, from the host, so they cannot come out of
another segment there: `segments_with_own_integers` computes them again where they are used.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.graph.collectives import is_collective
from pitcrew_builder.graph.ir import ElementType, Graph, Node, Port, Value
from pitcrew_builder.graph.types import element_types, port_type
from pitcrew_builder.manifest import Exchange


@dataclass(frozen=True, slots=True)
class Segment:
    """A graph without collectives, and the exchanges that follow it."""

    graph: Graph
    exchanges: tuple[Exchange, ...]


def segments(graph: Graph) -> tuple[Segment, ...]:
    """The segments of a graph, in the order in which they run.

    Run with the graph's inputs and all earlier outputs and exchanged values, by name, they compute
    what the graph computes. A graph without collectives is its own only segment.
    """
    stages = _stages(graph)
    if len(stages) == 1:
        return (Segment(graph, ()),)
    return _cut(graph, stages, element_types(graph))


def segments_with_own_integers(graph: Graph) -> tuple[Segment, ...]:
    """The same, but no integer passes from one segment to another."""
    stages = _stages(graph)
    if len(stages) == 1:
        return (Segment(graph, ()),)
    types = element_types(graph)
    made_by = {value: node for node in graph.nodes for value in node.outputs}
    whole = [
        (_with_own_integers(nodes, made_by, types), exchanging) for nodes, exchanging in stages
    ]
    return _cut(graph, whole, types)


def _cut(
    graph: Graph, stages: Sequence[tuple[list[Node], list[Node]]], types: Mapping[Value, str]
) -> tuple[Segment, ...]:
    needed = _needed(graph, stages)
    return tuple(
        Segment(
            _subgraph(graph, f"{graph.name}.{index}", nodes, needed[index], types),
            tuple(_exchange(node) for node in exchanging),
        )
        for index, (nodes, exchanging) in enumerate(stages)
    )


def _with_own_integers(
    nodes: list[Node], made_by: Mapping[Value, Node], types: Mapping[Value, str]
) -> list[Node]:
    """The nodes of a segment after those of others that they have integers of."""
    here = {value for node in nodes for value in node.outputs}
    own: dict[str, Node] = {}

    def take(node: Node) -> None:
        for value in node.inputs:
            maker = made_by.get(value)
            if maker is None or value in here or types[value] != ElementType.INT64:
                continue
            if maker.name not in own:
                take(maker)
                own[maker.name] = maker

    for node in nodes:
        take(node)
    return [*own.values(), *nodes]


def _stages(graph: Graph) -> list[tuple[list[Node], list[Node]]]:
    """The nodes of each segment, and the collectives after it."""
    ready: dict[Value, int] = defaultdict(int)
    stages: dict[int, tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
    for node in graph.nodes:
        stage = max((ready[name] for name in node.inputs), default=0)
        exchanging = is_collective(node)
        stages[stage][exchanging].append(node)
        ready |= dict.fromkeys(node.outputs, stage + exchanging)
    return [stages[index] for index in range(max(stages) + 1)]


def _needed(graph: Graph, stages: Sequence[tuple[list[Node], list[Node]]]) -> list[set[Value]]:
    """For each segment, the values that its exchanges and later segments use, or the caller."""
    later = {port.name for port in graph.outputs}
    needed: list[set[Value]] = []
    for nodes, exchanging in reversed(stages):
        needed.append(later | _used(exchanging))
        made = {value for node in nodes for value in node.outputs}
        later = later | (_used(nodes) - made) | _used(exchanging)
    return needed[::-1]


def _subgraph(
    graph: Graph,
    name: str,
    nodes: list[Node],
    needed: set[Value],
    types: Mapping[Value, str],
) -> Graph:
    used = _used(nodes)
    made = [value for node in nodes for value in node.outputs]
    constants = {weight.name for weight in graph.weights} | {item.name for item in graph.literals}
    given = {port.name: port for port in (*graph.inputs, *graph.outputs)}

    def port(value: Value) -> Port:
        return given.get(value) or Port(value, port_type(types, value), None)

    outside = sorted(used - set(made) - constants - {Value("")})
    return replace(
        graph,
        name=name,
        inputs=tuple(port(value) for value in outside),
        outputs=tuple(port(value) for value in made if value in needed),
        nodes=tuple(nodes),
        weights=tuple(weight for weight in graph.weights if weight.name in used),
        literals=tuple(literal for literal in graph.literals if literal.name in used),
    )


def _used(nodes: Iterable[Node]) -> set[Value]:
    return {name for node in nodes for name in node.inputs}


def _exchange(node: Node) -> Exchange:
    group = node.attribute("group")
    assert isinstance(group, tuple)
    return Exchange(operator=node.op, value=node.inputs[0], result=node.outputs[0], group=group)
