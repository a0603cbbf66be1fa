"""Which nodes the attention kernel is offered: a node names its plugin, or has its body compiled."""

from dataclasses import replace

from pitcrew_builder.blocks.paged import (
    CAPPED_PAGED_ATTENTION,
    PAGED_ATTENTION,
    SINK_PAGED_ATTENTION,
)
from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.graph.ir import Graph, Node
from pitcrew_builder.targets.trt.attention.launch import is_served

SERVED = (PAGED_ATTENTION, CAPPED_PAGED_ATTENTION, SINK_PAGED_ATTENTION)
"""The functions that the kernel computes."""

_NAMES = frozenset(function.name for function in SERVED)


def offered(graph: Graph) -> Graph:
    """The graph whose attention keeps its body where the kernel does not know its heads."""
    return replace(graph, nodes=tuple(map(_offered, graph.nodes)))


def _offered(node: Node) -> Node:
    if node.op not in _NAMES or is_served(_head_dim(node), _scale(node)):
        return node
    kept = tuple(item for item in node.attributes if item[0] not in PLUGIN)
    return replace(node, attributes=kept)


def _head_dim(node: Node) -> int:
    context, kv_heads = node.attribute("context_shape"), node.attribute("kv_num_heads")
    assert isinstance(context, tuple)
    assert isinstance(kv_heads, int)
    return context[-1] // kv_heads


def _scale(node: Node) -> float | None:
    """None where it is an input, which the kernel reads."""
    scale = node.attribute("scale")
    assert isinstance(scale, float | None)
    return scale
