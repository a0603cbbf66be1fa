"""Which nodes the attention kernel is offered: a node names its plugin, or has its body compiled."""

from dataclasses import replace

from pitcrew_builder.blocks.paged import PAGED_ATTENTION
from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.graph.ir import Graph, Node
from pitcrew_builder.targets.trt.attention.launch import is_served


def offered(graph: Graph) -> Graph:
    """The graph whose attention keeps its body where the kernel does not know its heads."""
    return replace(graph, nodes=tuple(map(_offered, graph.nodes)))


def _offered(node: Node) -> Node:
    if node.op != PAGED_ATTENTION.name or is_served(_head_dim(node), _scale(node)):
        return node
    kept = tuple(item for item in node.attributes if item[0] not in PLUGIN)
    return replace(node, attributes=kept)


def _head_dim(node: Node) -> int:
    context, kv_heads = node.attribute("context_shape"), node.attribute("kv_num_heads")
    assert isinstance(context, tuple)
    assert isinstance(kv_heads, int)
    return context[-1] // kv_heads


def _scale(node: Node) -> float:
    scale = node.attribute("scale")
    assert isinstance(scale, float)
    return scale
