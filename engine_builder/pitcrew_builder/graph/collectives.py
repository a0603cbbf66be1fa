"""Nodes by which ranks exchange rows: `llm::AllReduce` and `llm::AllGather`.

They are operators without a body, on purpose. An executor that has no collective of that name must
refuse the graph; a body that computed something would let a single rank run it and be wrong in
silence. `graph.segments` cuts a graph at them for executors that reduce outside of the graph.
"""

from enum import StrEnum

from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Node, Value

DOMAIN = "llm"


class Collective(StrEnum):
    """What a group of ranks does with one tensor of each."""

    ALL_REDUCE = "AllReduce"
    """Sum them; every rank gets the sum."""

    ALL_GATHER = "AllGather"
    """Lay them side by side on the last axis, in the order of the group."""


def is_collective(node: Node) -> bool:
    """Whether a node needs other ranks."""
    return node.domain == DOMAIN and node.op in set(Collective)


def all_reduce(e: Emitter, value: Value, group: tuple[int, ...]) -> Value:
    """The sum of every rank's `value`; a group of one needs no node."""
    return _collective(e, Collective.ALL_REDUCE, value, group)


def all_gather(e: Emitter, value: Value, group: tuple[int, ...]) -> Value:
    """Every rank's `value`, of equal shapes, side by side on the last axis."""
    return _collective(e, Collective.ALL_GATHER, value, group)


def _collective(e: Emitter, kind: Collective, value: Value, group: tuple[int, ...]) -> Value:
    return value if len(group) == 1 else e.op(f"{DOMAIN}::{kind}", value, group=group)
