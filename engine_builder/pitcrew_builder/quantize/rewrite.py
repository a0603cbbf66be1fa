"""The graph with narrow matrices: `Gemm`s that read through `DequantizeLinear`.

Integer codes are stored [inputs, outputs], the only layout that ONNX Runtime turns into
`MatMulNBits`; FP8 codes stay [outputs, inputs]. Multipliers of a matrix's inputs are undone in the
norm that makes these inputs, or by a node of their own where no norm makes them for it alone.
"""

from collections import Counter
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from pitcrew_builder.graph.ir import Graph, Literal, Node, Value, Weight
from pitcrew_builder.quantize.grid import Floats
from pitcrew_builder.quantize.sites import Site

NORMS = frozenset({"RMSNormalization", "LayerNormalization"})


@dataclass(frozen=True, slots=True)
class Narrow:
    """A site's matrix, encoded."""

    site: Site
    codes: Weight
    scales: Weight
    block: int
    """Inputs that share a scale; 0 where each output has one."""
    transposed: bool
    """Codes lie [inputs, outputs]."""
    divisors: Floats | None = None
    """[inputs]: divide the matrix's input by these by a node in front of it."""
    input_scale: float | None = None
    """Set where the input is rounded to FP8 by this scale."""


def rewrite(graph: Graph, narrow: list[Narrow], norms: dict[Value, Weight]) -> Graph:
    """Replace every site's product; `norms` replaces the weights of norms by name."""
    by_node = {item.site.node.name: item for item in narrow}
    nodes: list[Node] = []
    literals = list(graph.literals)
    for node in graph.nodes:
        item = by_node.get(node.name)
        if item is None:
            nodes.append(_renamed(node, norms))
            continue
        nodes.extend(_product(item, literals))
    replaced = {item.site.weight.name for item in narrow} | set(norms)
    weights = [weight for weight in graph.weights if weight.name not in replaced]
    encoded = [weight for item in narrow for weight in (item.codes, item.scales)]
    return replace(
        graph,
        nodes=tuple(nodes),
        weights=(*weights, *norms.values(), *encoded),
        literals=tuple(literals),
    )


def foldable_norm(graph: Graph, site: Site) -> Value | None:
    """The weight of the norm whose output nobody but the site reads, itself used once."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    maker = next((node for node in graph.nodes if site.rows in node.outputs), None)
    if maker is None or maker.op not in NORMS or uses[site.rows] > 1:
        return None
    scale = maker.inputs[1]
    is_weight = any(weight.name == scale for weight in graph.weights)
    # A LayerNormalization's bias would have to be divided too.
    return scale if is_weight and uses[scale] == 1 and len(maker.inputs) == 2 else None


def _renamed(node: Node, norms: dict[Value, Weight]) -> Node:
    inputs = tuple(norms[name].name if name in norms else name for name in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)


def _product(item: Narrow, literals: list[Literal]) -> list[Node]:
    node = item.site.node
    rows, before = _divided(item, literals)
    rows, rounding = _rounded(item, rows, literals)
    matrix = Value(f"{node.name}/matrix")
    widen = Node(
        "DequantizeLinear",
        f"{node.name}/widen",
        (item.codes.name, item.scales.name),
        (matrix,),
        _blocking(item),
    )
    attributes = () if item.transposed else (("transB", 1),)
    product = replace(node, inputs=(rows, matrix, *node.inputs[2:]), attributes=attributes)
    return [*before, *rounding, widen, product]


def _blocking(item: Narrow) -> tuple[tuple[str, int], ...]:
    axis_of_inputs = 0 if item.transposed else 1
    if item.block:
        return (("axis", axis_of_inputs), ("block_size", item.block))
    return (("axis", 1 - axis_of_inputs),)


def _divided(item: Narrow, literals: list[Literal]) -> tuple[Value, list[Node]]:
    node = item.site.node
    if item.divisors is None:
        return item.site.rows, []
    name, result = Value(f"{node.name}/factors"), Value(f"{node.name}/scaled")
    literals.append(Literal(name, (1 / item.divisors).astype(np.float32)))
    return result, [Node("Mul", result, (item.site.rows, name), (result,))]


def _rounded(item: Narrow, rows: Value, literals: list[Literal]) -> tuple[Value, list[Node]]:
    name = item.site.node.name
    if item.input_scale is None:
        return rows, []
    scale, zero = Value(f"{name}/input_scale"), Value(f"{name}/input_zero")
    literals.append(Literal(scale, np.array(item.input_scale, np.float32)))
    literals.append(Literal(zero, np.array(0, ml_dtypes.float8_e4m3fn)))
    codes, result = Value(f"{name}/input_codes"), Value(f"{name}/input")
    return result, [
        Node("QuantizeLinear", codes, (rows, scale, zero), (codes,)),
        Node("DequantizeLinear", result, (codes, scale, zero), (result,)),
    ]
