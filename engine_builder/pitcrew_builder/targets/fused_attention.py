"""What ONNX Runtime's `GroupQueryAttention` can do beside attending: take one projection of queries,
keys and values apart, and rotate.

A token then passes through one operator where it passed through seven, with the same numbers bit for
bit. It fits where nothing stands between the joined projection and the plain rotation of whole
heads; norms of heads, adapters' changes and rotations of a part are kept in front, as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pitcrew_builder.graph.ir import Node, Value

POSITIONS = Value("positions")
"""The graph's input. The operator takes it too: short texts may begin elsewhere than at 0."""
_MULTIPLE = 16
"""What heads must be a multiple of to be rotated by the operator."""
Makers = Mapping[Value, Node]
"""Value -> the node that it comes from."""


@dataclass(frozen=True, slots=True)
class Fused:
    """What the operator takes in place of rotated queries and keys, and values."""

    projection: Value
    """[T, (heads + 2 * kv_heads) * D]."""
    cos: Value
    sin: Value
    """Tables [max length, D / 2]."""


def fused(attention: Node, makers: Makers, head_dim: int) -> Fused | None:
    """For an attention node whose first inputs are queries, keys and values [B, S, heads * D]."""
    queries, keys, values = (makers.get(name) for name in attention.inputs[:3])
    if queries is None or keys is None or values is None or head_dim % _MULTIPLE:
        return None
    tables = _tables(queries, makers)
    if tables is None or tables != _tables(keys, makers):
        return None
    parts = [
        _behind(name, makers) for name in (queries.inputs[0], keys.inputs[0], values.outputs[0])
    ]
    split = makers.get(parts[0])
    if split is None or split.op != "Split" or split.outputs != tuple(parts):
        return None
    return Fused(split.inputs[0], *tables)


def _tables(rotation: Node, makers: Makers) -> tuple[Value, Value] | None:
    """The tables that whole heads are rotated by, looked up by position."""
    if rotation.op != "RotaryEmbedding" or rotation.attribute("rotary_embedding_dim") is not None:
        return None
    found = [makers.get(name) for name in rotation.inputs[1:]]
    tables = [each.inputs[0] for each in found if each is not None and _is_lookup(each)]
    return (tables[0], tables[1]) if len(tables) == 2 else None


def _is_lookup(node: Node) -> bool:
    return node.op == "Gather" and node.inputs[1] == POSITIONS


def _behind(name: Value, makers: Makers) -> Value:
    """What a value is but another shape of."""
    maker = makers.get(name)
    return maker.inputs[0] if maker is not None and maker.op == "Reshape" else name
