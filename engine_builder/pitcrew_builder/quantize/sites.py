"""Which matrices of a graph are made narrow: those of the layers, each read by one `Gemm`."""

import re
from collections import Counter
from dataclasses import dataclass

from pitcrew_builder.graph.ir import ElementType, Graph, Node, Value, Weight

_LAYER = re.compile(r"(^|\.|\+)layers\.\d+\.")
_ROUTER = re.compile(r"(\.gate|\.router)\.weight$")
"""A router is tiny, and a wrong choice of experts is not a small error."""


@dataclass(frozen=True, slots=True)
class Site:
    """A product `rows` [T, inputs] x `weight` [outputs, inputs] transposed."""

    node: Node
    weight: Weight

    @property
    def rows(self) -> Value:
        """The activations that the matrix is multiplied with."""
        return self.node.inputs[0]

    @property
    def outputs(self) -> int:
        """Rows of the matrix."""
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        """Columns of the matrix."""
        return self.weight.shape[1]


def sites(graph: Graph) -> tuple[Site, ...]:
    """In graph order. Embedding, LM head, norms and routers keep their precision."""
    weights = {weight.name: weight for weight in graph.weights}
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    return tuple(
        Site(node, weights[node.inputs[1]])
        for node in graph.nodes
        if node.op == "Gemm"
        and node.attribute("transB") == 1
        and node.inputs[1] in weights
        and uses[node.inputs[1]] == 1
        and _is_fit(weights[node.inputs[1]])
    )


def kept(graph: Graph, chosen: tuple[Site, ...]) -> tuple[str, ...]:
    """Names of the matrices, and stacks of matrices, that are not made narrow."""
    narrow = {site.weight.name for site in chosen}
    wide = [weight for weight in graph.weights if len(weight.shape) > 1]
    return tuple(weight.name for weight in wide if weight.name not in narrow)


def _is_fit(weight: Weight) -> bool:
    in_layer = _LAYER.search(weight.name) is not None
    return in_layer and weight.type is ElementType.FLOAT32 and not _ROUTER.search(weight.name)
