"""The graph with narrow matrices: products that read through `DequantizeLinear`.

Integer codes are stored [inputs, outputs], the only layout that ONNX Runtime turns into
`MatMulNBits`; FP8 codes stay [outputs, inputs]. Stacks of experts are [experts, inputs, outputs],
which mixtures take by rows: TensorRT unfolds, or dies of, four-bit matrices on the left of a product.

Grids are symmetric, since TensorRT refuses zero points. Where a checkpoint has them, the product is
that of the codes, plus for each block its zero point's part: (x summed over the block) * -scale *
zero. In a stack the zero points are added to the matrices themselves.

What else the codes ask for is done to the rows in front: multipliers of a matrix's inputs are undone
in the norm that makes these inputs, or by a node of their own where no norm makes them for it
alone; inputs are gathered in the order of the columns.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from pitcrew_builder.blocks.moe import BY_ROWS, MATRICES
from pitcrew_builder.checkpoint.coded import Floats, Indices
from pitcrew_builder.graph.ir import Array, Graph, Literal, Node, Value, Weight
from pitcrew_builder.graph.recipe import Transposed
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
    zeros: Weight | None = None
    """-scale * zero: [outputs, blocks], of a stack [experts, blocks, 1, outputs]."""
    order: Indices | None = None
    """[columns]: the input that each column of the matrix is multiplied with."""
    divisors: Floats | None = None
    """[inputs]: divide the matrix's input by these by a node in front of it."""
    input_scale: float | None = None
    """Set where the input is rounded to FP8 by this scale."""

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Everything that is stored."""
        return tuple(filter(None, (self.codes, self.scales, self.zeros)))


def rewrite(graph: Graph, narrow: Iterable[Narrow], norms: Mapping[Value, Weight]) -> Graph:
    """Replace every site's product; `norms` replaces the weights of norms by name."""
    by_node: dict[str, list[Narrow]] = defaultdict(list)
    for item in narrow:
        by_node[item.site.node.name].append(item)
    pen = _Pen(graph)
    for node in graph.nodes:
        items = by_node.get(node.name)
        if items is None:
            pen.nodes.append(_renamed(node, norms))
        elif node.op == "Gemm":
            _product(pen, items[0])
        else:
            _mixture(pen, node, items)
    replaced = {item.site.weight.name for items in by_node.values() for item in items}
    replaced |= set(norms) | set(pen.turned)
    encoded = [weight for items in by_node.values() for item in items for weight in item.weights]
    # An embedding that is the LM head too is still looked up.
    read = {name for node in pen.nodes for name in node.inputs}
    kept = [each for each in graph.weights if each.name not in replaced or each.name in read]
    used = {node.op for node in pen.nodes}
    return replace(
        graph,
        nodes=tuple(pen.nodes),
        weights=(*kept, *norms.values(), *pen.turned.values(), *encoded),
        literals=tuple(pen.literals.values()),
        functions=tuple(
            each for each in (*graph.functions, *BY_ROWS.values()) if each.name in used
        ),
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


class _Pen:
    """Collects the nodes and constants of the rewritten graph."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = []
        self.literals = {literal.name: literal for literal in graph.literals}
        self.weights = {weight.name: weight for weight in graph.weights}
        self.turned: dict[Value, Weight] = {}
        """Stacks that stay wide among narrow ones, by name."""

    def node(self, op: str, name: str, *inputs: Value, **attributes: int) -> Value:
        """Add a node of one output, of its own name."""
        self.nodes.append(Node(op, name, inputs, (Value(name),), tuple(attributes.items())))
        return Value(name)

    def literal(self, name: str, array: Array) -> Value:
        """Add a constant."""
        self.literals[Value(name)] = Literal(Value(name), array)
        return Value(name)

    def ints(self, name: str, *values: int) -> Value:
        """Add a constant int64 vector."""
        return self.literal(name, np.array(values, np.int64))


def _renamed(node: Node, norms: Mapping[Value, Weight]) -> Node:
    inputs = tuple(norms[name].name if name in norms else name for name in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)


def _product(pen: _Pen, item: Narrow) -> None:
    node = item.site.node
    rows = _rounded(pen, item, _gathered(pen, item, _divided(pen, item)))
    attributes = () if item.transposed else (("transB", 1),)
    product = replace(
        node, inputs=(rows, _matrix(pen, item), *node.inputs[2:]), attributes=attributes
    )
    if item.zeros is None:
        pen.nodes.append(product)
        return
    columns = item.codes.shape[0 if item.transposed else 1]
    count = item.zeros.shape[1]
    shape = pen.ints(f"{node.name}/in_blocks", 0, count, columns // count)
    blocks = pen.node("Reshape", f"{node.name}/blocks", rows, shape)
    last = pen.ints(f"{node.name}/within_block", 2)
    sums = pen.node("ReduceSum", f"{node.name}/block_sums", blocks, last, keepdims=0)
    zeros = pen.node("Gemm", f"{node.name}/zeros", sums, item.zeros.name, transB=1)
    coded = Value(f"{node.name}/coded")
    pen.nodes.append(replace(product, outputs=(coded,)))
    pen.nodes.append(Node("Add", f"{node.name}/with_zeros", (coded, zeros), node.outputs))


def _matrix(pen: _Pen, item: Narrow) -> Value:
    """The matrix, widened: [inputs, outputs] or [outputs, inputs]."""
    name, axis_of_inputs = item.site.node.name, 0 if item.transposed else 1
    how = {"axis": axis_of_inputs, "block_size": item.block}
    if not item.block:
        how = {"axis": 1 - axis_of_inputs}
    return pen.node("DequantizeLinear", f"{name}/matrix", item.codes.name, item.scales.name, **how)


def _mixture(pen: _Pen, node: Node, items: list[Narrow]) -> None:
    inputs = list(node.inputs)
    narrow = {item.site.operand: item for item in items}
    for operand in MATRICES:
        if operand in narrow:
            inputs[operand] = _stack(pen, narrow[operand])
        else:
            weight = pen.weights[inputs[operand]]
            parts = tuple(Transposed(part) for part in weight.parts)
            pen.turned[weight.name] = replace(weight, parts=parts)
    pen.nodes.append(replace(node, op=BY_ROWS[node.op].name, inputs=tuple(inputs)))


def _stack(pen: _Pen, item: Narrow) -> Value:
    """The experts' matrices, widened: [experts, inputs, outputs]."""
    name = f"{item.site.node.name}/{item.site.operand}"
    codes, scales = item.codes, item.scales
    wide = pen.node(
        "DequantizeLinear", f"{name}/widen", codes.name, scales.name, axis=1, block_size=item.block
    )
    if item.zeros is None:
        return wide
    experts, columns, outputs = codes.shape
    shape = pen.ints(f"{name}/in_blocks", experts, columns // item.block, item.block, outputs)
    blocks = pen.node("Reshape", f"{name}/blocks", wide, shape)
    moved = pen.node("Add", f"{name}/with_zeros", blocks, item.zeros.name)
    whole = pen.ints(f"{name}/whole", experts, columns, outputs)
    return pen.node("Reshape", f"{name}/matrices", moved, whole)


def _divided(pen: _Pen, item: Narrow) -> Value:
    if item.divisors is None:
        return item.site.rows
    name = item.site.node.name
    factors = pen.literal(f"{name}/factors", (1 / item.divisors).astype(np.float32))
    return pen.node("Mul", f"{name}/scaled", item.site.rows, factors)


def _gathered(pen: _Pen, item: Narrow, rows: Value) -> Value:
    if item.order is None:
        return rows
    name = item.site.node.name
    order = pen.literal(f"{name}/order", item.order.astype(np.int64))
    return pen.node("Gather", f"{name}/ordered", rows, order, axis=1)


def _rounded(pen: _Pen, item: Narrow, rows: Value) -> Value:
    if item.input_scale is None:
        return rows
    name = item.site.node.name
    scale = pen.literal(f"{name}/input_scale", np.array(item.input_scale, np.float32))
    zero = pen.literal(f"{name}/input_zero", np.array(0, ml_dtypes.float8_e4m3fn))
    codes = pen.node("QuantizeLinear", f"{name}/input_codes", rows, scale, zero)
    return pen.node("DequantizeLinear", f"{name}/input", codes, scale, zero)
