"""Which norms the kernel is offered: their nodes become calls of a function that names its plugin."""

from dataclasses import replace

import numpy as np

from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.blocks.products import RMS_NORM
from pitcrew_builder.graph.ir import Graph, Literal, Node, Value
from pitcrew_builder.targets.trt.norms.launch import is_served


def offered(graph: Graph) -> Graph:
    """The graph whose RMS norms are the kernel's, of widths that it knows."""
    widths = {weight.name: weight.shape[-1] for weight in graph.weights}
    small: dict[float, Literal] = {}
    nodes = tuple(_offered(node, widths, small) for node in graph.nodes)
    if not small:
        return graph
    literals, functions = (*graph.literals, *small.values()), (*graph.functions, RMS_NORM)
    return replace(graph, nodes=nodes, literals=literals, functions=functions)


def _offered(node: Node, widths: dict[Value, int], small: dict[float, Literal]) -> Node:
    if node.op != "RMSNormalization" or not is_served(widths.get(node.inputs[1], 1)):
        return node
    epsilon = node.attribute("epsilon")
    assert isinstance(epsilon, float)
    name = Value(f"epsilon.{len(small)}")
    literal = small.setdefault(epsilon, Literal(name, np.array([epsilon], np.float32)))
    return replace(
        node,
        op=RMS_NORM.name,
        domain=RMS_NORM.domain,
        inputs=(*node.inputs, literal.name),
        attributes=(("epsilon", epsilon), *PLUGIN.items()),
    )
