"""Calls of model-local functions, opened: their bodies in the graph, so that values inside show."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from pitcrew_builder.graph.ir import AttributeRef, Function, Graph, Node, Value


def inline(graph: Graph, calls: Collection[str]) -> Graph:
    """The graph with the bodies of the calls of these names, whose functions pass no attribute on."""
    functions = {(function.domain, function.name): function for function in graph.functions}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.name in calls:
            nodes.extend(_body(node, functions[node.domain, node.op]))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def inner_value(call: Node, value: Value) -> Value:
    """What a value of the function's body is called once the call is opened."""
    return Value(f"{call.name}/{value}")


def _body(call: Node, function: Function) -> Iterator[Node]:
    known = dict(zip(function.inputs, call.inputs, strict=True))
    known |= dict(zip(function.outputs, call.outputs, strict=True))

    def renamed(values: tuple[Value, ...]) -> tuple[Value, ...]:
        return tuple(known.get(value) or (value and inner_value(call, value)) for value in values)

    for node in function.nodes:
        passed = [name for name, value in node.attributes if isinstance(value, AttributeRef)]
        assert not passed, f"{function.name} passes {passed} on"
        name = inner_value(call, Value(node.name))
        yield replace(node, name=name, inputs=renamed(node.inputs), outputs=renamed(node.outputs))
