"""Which products the kernel is offered: their nodes become calls of functions that name its plugin."""

from dataclasses import replace

from pitcrew_builder.blocks.moe import BY_PRODUCTS, MATRICES, is_mixture
from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.blocks.products import BIASED_PRODUCT, EXPERT_PRODUCTS, PRODUCT
from pitcrew_builder.graph.ir import Function, Graph, Kinds, Node, Value
from pitcrew_builder.targets.trt.products.launch import is_served

Shapes = dict[Value, tuple[int, ...]]


def offered(graph: Graph, kinds: Kinds) -> Graph:
    """The graph whose products with matrices in half precision are the kernel's.

    `kinds` are the weights that are stored narrower: those keep their operators, as do matrices
    that the kernel does not know.
    """
    plain = {weight.name: weight.shape for weight in graph.weights if weight.name not in kinds}
    nodes = tuple(_offered(node, plain) for node in graph.nodes)
    called = {node.op for node in nodes if node.domain == "llm"}
    functions = {function.name: function for function in graph.functions}
    functions |= {each.name: each for each in _known() if each.name in called}
    if called & {each.name for each in BY_PRODUCTS.values()}:
        functions[EXPERT_PRODUCTS.name] = EXPERT_PRODUCTS
    used = called | {EXPERT_PRODUCTS.name}
    kept = tuple(each for name, each in functions.items() if name in used)
    return replace(graph, nodes=nodes, functions=kept)


def _known() -> tuple[Function, ...]:
    return PRODUCT, BIASED_PRODUCT, *BY_PRODUCTS.values()


def _offered(node: Node, plain: Shapes) -> Node:
    if (
        node.op == "Gemm"
        and node.attributes == (("transB", 1),)
        and _knows(plain, node.inputs[1:2])
    ):
        function = PRODUCT if len(node.inputs) == 2 else BIASED_PRODUCT
        return replace(node, op=function.name, domain="llm", attributes=tuple(PLUGIN.items()))
    if is_mixture(node) and _knows(plain, tuple(node.inputs[at] for at in MATRICES)):
        return replace(node, op=BY_PRODUCTS[node.op].name, attributes=())
    return node


def _knows(plain: Shapes, matrices: tuple[Value, ...]) -> bool:
    return all(name in plain and is_served(plain[name][-1]) for name in matrices)
