"""Matrices of a graph that codes may stand for: each read once, by a `Gemm` or a mixture of experts."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pitcrew_builder.blocks.moe import MATRICES, is_mixture
from pitcrew_builder.graph.ir import ElementType, Graph, Node, Value, Weight
from pitcrew_builder.graph.parts import Part, part_of
from pitcrew_builder.graph.recipe import packed_in
from pitcrew_builder.quantize.shapes import is_in_blocks

_LAYER = re.compile(r"(^|\.|\+)layers\.\d+\.")
_ROUTER = re.compile(r"(\.gate|\.router)\.weight$")
"""A router is tiny, and a wrong choice of experts is not a small error."""


@dataclass(frozen=True, slots=True)
class Site:
    """A product of activations with `weight` [outputs, inputs] transposed, or with a stack of such."""

    node: Node
    operand: int
    """The matrix's place among the node's inputs."""
    weight: Weight

    @property
    def rows(self) -> Value:
        """The activations [T, ...] that enter the node."""
        return self.node.inputs[0]

    @property
    def experts(self) -> int:
        """Matrices in the stack; 1 for one that stands alone."""
        return self.weight.shape[0] if self.weight.stacked else 1

    @property
    def outputs(self) -> int:
        """Rows of one matrix."""
        return self.weight.shape[-2]

    @property
    def inputs(self) -> int:
        """Columns of one matrix."""
        return self.weight.shape[-1]

    @property
    def is_head(self) -> bool:
        """It gives the logits."""
        return is_head(self.weight)


def sites(graph: Graph, *, head: bool = False) -> tuple[Site, ...]:
    """What is made narrow, in graph order: the layers' matrices without routers, with `head` the LM
    head too. Embedding and norms keep their precision.
    """
    return tuple(
        site for site in candidates(graph) if _is_fit(site.weight) or (head and site.is_head)
    )


def packed_sites(graph: Graph) -> tuple[Site, ...]:
    """What the checkpoint holds as codes that can be kept.

    Experts share their rows, so a stack whose matrices order them each in another way is not.
    """
    return tuple(site for site in candidates(graph) if _is_packed(site.weight))


def candidates(graph: Graph) -> Iterator[Site]:
    """Every matrix that one node alone reads, and the LM head, whose rows may be looked up too."""
    weights = {weight.name: weight for weight in graph.weights}
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    for node in graph.nodes:
        for operand in _operands(node):
            weight = weights.get(node.inputs[operand])
            if weight is not None and (uses[weight.name] == 1 or is_head(weight)):
                yield Site(node, operand, weight)


def kept(graph: Graph, chosen: tuple[Site, ...]) -> tuple[str, ...]:
    """Names of the matrices, and stacks of matrices, that are read as they were."""
    narrow = Counter(site.weight.name for site in chosen)
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    wide = [weight.name for weight in graph.weights if len(weight.shape) > 1]
    return tuple(name for name in wide if uses[name] > narrow[name])


def is_head(weight: Weight) -> bool:
    """Whether a product with it gives logits: it is the LM head, or an embedding that serves as one."""
    return part_of(weight.name) in (Part.HEAD, Part.EMBEDDING)


def _operands(node: Node) -> range:
    if is_mixture(node):
        return MATRICES
    return range(1, 2) if node.op == "Gemm" and node.attribute("transB") == 1 else range(0)


def _is_fit(weight: Weight) -> bool:
    in_layer = _LAYER.search(weight.name) is not None
    return in_layer and weight.type is ElementType.FLOAT32 and not _ROUTER.search(weight.name)


def _is_packed(weight: Weight) -> bool:
    if any(packed_in(part) is None for part in weight.parts):
        return False
    return not weight.stacked or is_in_blocks(weight)
