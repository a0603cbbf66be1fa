"""The shapes of a rank's values, in words: `rows` for B * S and so on.

ONNX infers shapes of known sizes far better than of symbols. So they are inferred twice, from inputs of two
sets of sizes that share no factor: a dimension that is the same in both is fixed, and every other
one is the word whose sizes it has. No size is ever taken by a real step, and no weight is read.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import onnx

from pitcrew_builder.adapters.slots import SLOTS
from pitcrew_builder.blocks.causal_lm import ROWS
from pitcrew_builder.blocks.step import BATCH, BLOCKS, NEW, PAGES, WANTED
from pitcrew_builder.graph.collectives import Collective, is_collective
from pitcrew_builder.graph.ir import Dim, Graph, Node, Port, Value
from pitcrew_builder.graph.proto import Extent, is_inline, to_proto

Shape = tuple[Dim, ...]

WANTED_ROWS, SEEN = "wanted_rows", "seen"
"""B * K, and the tokens that a mask knows: all of the block table's and the new ones."""

_TRIALS: tuple[dict[str, int], ...] = (
    {BATCH: 3, NEW: 5, BLOCKS: 7, PAGES: 11, WANTED: 13, SLOTS: 37},
    {BATCH: 17, NEW: 19, BLOCKS: 23, PAGES: 29, WANTED: 31, SLOTS: 41},
)


def with_products(sizes: Mapping[str, int], page: int) -> dict[str, int]:
    """The sizes of the graph's inputs by name, and of what is made of them."""
    rows, wanted = sizes[BATCH] * sizes[NEW], sizes[BATCH] * sizes[WANTED]
    seen = sizes[BLOCKS] * page + sizes[NEW]
    return {**sizes, ROWS: rows, WANTED_ROWS: wanted, SEEN: seen}


def shapes_of(graph: Graph, values: Collection[Value], page: int) -> dict[Value, Shape]:
    """Of values, for pools with pages of `page` tokens."""
    trials = [with_products(sizes, page) for sizes in _TRIALS]
    first, second = (_inferred(graph, sizes) for sizes in trials)
    words = {tuple(sizes[word] for sizes in trials): word for word in trials[0]}
    return {
        value: tuple(
            one if one == other else words[one, other]
            for one, other in zip(first[value], second[value], strict=True)
        )
        for value in values
    }


def _inferred(graph: Graph, sizes: Mapping[str, int]) -> dict[str, Sequence[int]]:
    sized = replace(
        graph,
        inputs=tuple(_sized(port, sizes) for port in graph.inputs),
        outputs=tuple(replace(port, shape=None) for port in graph.outputs),
        nodes=tuple(map(_local, graph.nodes)),
    )
    nowhere = Extent(0, 0)
    constants = [weight.name for weight in graph.weights]
    constants += [literal.name for literal in graph.literals if not is_inline(literal)]
    model = to_proto(sized, dict.fromkeys(constants, nowhere), "nowhere", {})
    told = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*told.value_info, *told.output)
    }


def _sized(port: Port, sizes: Mapping[str, int]) -> Port:
    assert port.shape is not None, f"input {port.name} has no shape"
    dims = (sizes[dim] if isinstance(dim, str) else dim for dim in port.shape)
    return replace(port, shape=tuple(dims))


def _local(node: Node) -> Node:
    """A node whose result has the shape of what ranks exchange."""
    if not is_collective(node):
        return node
    if node.op == Collective.ALL_REDUCE:
        return replace(node, op="Identity", domain="", attributes=())
    group = node.attribute("group")
    assert isinstance(group, tuple)
    parts = node.inputs * len(group)
    return replace(node, op="Concat", domain="", inputs=parts, attributes=(("axis", -1),))
