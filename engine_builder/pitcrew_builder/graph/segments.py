"""Cutting a rank's graph at its collectives, for executors that run one rank at a time.

Between two collectives a rank computes alone. A segment is everything that can be computed once the
exchanges of all segments before it are done; what a later one needs of it becomes its output.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pitcrew_builder.graph.collectives import is_collective
from pitcrew_builder.graph.ir import Graph, Node, Port, Value
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
    types = element_types(graph)
    needed = _needed(graph, stages)
    return tuple(
        Segment(
            _subgraph(graph, f"{graph.name}.{index}", nodes, needed[index], types),
            tuple(_exchange(node) for node in exchanging),
        )
        for index, (nodes, exchanging) in enumerate(stages)
    )


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


def _needed(graph: Graph, stages: list[tuple[list[Node], list[Node]]]) -> list[set[Value]]:
    """For each segment, the values that its exchanges and later segments use, or the caller."""
    later = {port.name for port in graph.outputs}
    needed: list[set[Value]] = []
    for nodes, exchanging in reversed(stages):
        needed.append(later | _used(exchanging))
        later = later | _used(nodes) | _used(exchanging)
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
