"""`llm::AllReduce` and `llm::AllGather` as TensorRT's own `DistCollective`.

TensorRT sums over ranks; its gather needs a world size that no builder option states. So a gather
is a sum too: every rank lays its columns between zeros where they belong. That is exact, and costs
one network step of the logits that are wanted, a few rows.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pitcrew_builder.graph.collectives import Collective, is_collective
from pitcrew_builder.graph.ir import Graph, Literal, Node, Value

_NO_ROOT = -1


def with_native_collectives(graph: Graph, rank: int) -> Graph:
    """The graph of one rank with the compiler's operators in place of ours."""
    literals = list(graph.literals)
    nodes = tuple(new for node in graph.nodes for new in _native(node, rank, literals))
    return replace(graph, nodes=nodes, literals=tuple(literals))


def _native(node: Node, rank: int, literals: list[Literal]) -> Iterator[Node]:
    if not is_collective(node):
        yield node
        return
    group = node.attribute("group")
    assert isinstance(group, tuple), f"{node.name} names no group"
    value = node.inputs[0]
    if node.op == Collective.ALL_GATHER:
        yield from _spread(node, group.index(rank), len(group), literals)
        value = Value(f"{node.name}/spread")
    yield Node(
        "DistCollective",
        node.name,
        (value,),
        node.outputs,
        (
            ("collective_operation", "all_reduce"),
            ("reduce_op", "sum"),
            ("root", _NO_ROOT),
            ("group_size", len(group)),
            ("groups", group),
        ),
    )


def _spread(node: Node, index: int, count: int, literals: list[Literal]) -> Iterator[Node]:
    """Rows [n, width] to [n, count * width], zero but for the columns of part `index`."""
    width, shares, pads = (Value(f"{node.name}/{part}") for part in ("width", "shares", "pads"))
    # Pad wants what to add before each axis, then after each.
    literals.append(Literal(shares, np.array([0, index, 0, count - 1 - index], dtype=np.int64)))
    yield Node("Shape", width, (node.inputs[0],), (width,), (("start", -1),))
    yield Node("Mul", pads, (width, shares), (pads,))
    yield Node(
        "Pad", f"{node.name}/spread", (node.inputs[0], pads), (Value(f"{node.name}/spread"),)
    )
