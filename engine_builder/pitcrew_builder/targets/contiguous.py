"""The graph for a caller that keeps every sequence's context together: a pass from `Graph` to `Graph`.

On a CPU, copying the pages of all sequences side by side takes longer than attention itself. ONNX
Runtime's own `GroupQueryAttention` appends to contexts in place and reads of each as much as it has;
where it can, it splits and rotates too (`fused_attention`). New keys and values are no outputs: the
caller finds them in the contexts. The paged graph of standard operators stays for all others, and for the proof. Weights are the same,
in the same files.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from pitcrew_builder.blocks.paged import PAGED_ATTENTION
from pitcrew_builder.graph.ir import (
    Attribute,
    ElementType,
    Graph,
    Literal,
    Node,
    Port,
    Value,
)
from pitcrew_builder.targets.fused_attention import POSITIONS, fused

_PAGED = PAGED_ATTENTION.name
_TABLES = Value("block_tables")
_POOLS = {"key_pool": "key_context", "value_pool": "value_context"}
_NEW = ("new_keys.", "new_values.")
_LAST, _TOTAL = Value("step/last_index"), Value("step/total_length")
_ROWS_APART = Value("step/rows_apart")
_ABSENT = Value("")
_INT32 = 6
"""Of ONNX's `TensorProto.DataType`."""


def contiguous(graph: Graph) -> Graph | None:
    """`manifest.GraphInterface` with contexts in place of pools and block tables.

    None where the cache is narrow, some attention of the graph is more than plain and causal, or
    heads are no multiple of 8 wide, which `GroupQueryAttention` asks for.
    """
    pools = {port.name: port for port in graph.inputs if port.name.split(".")[0] in _POOLS}
    plain = [node for node in graph.nodes if node.op == _PAGED]
    readers = [node for node in graph.nodes if not pools.keys().isdisjoint(node.inputs)]
    fit = all(_is_readable(port) for port in pools.values())
    if not plain or readers != plain or not fit or _has_windows(graph, plain):
        return None
    kept = (port for port in graph.outputs if not port.name.startswith(_NEW))
    outputs = (*kept, *map(_grown, pools.values()))
    nodes = _needed([*_LENGTHS, *_drawn(graph, pools)], outputs)
    read = {name for node in nodes for name in node.inputs}
    return replace(
        graph,
        inputs=tuple(_port(port) for port in graph.inputs if port.name != _TABLES),
        outputs=outputs,
        nodes=tuple(nodes),
        literals=tuple(each for each in (*graph.literals, *_CONSTANTS) if each.name in read),
        functions=tuple(each for each in graph.functions if each.name != _PAGED),
    )


_CONSTANTS = (
    Literal(Value("step/one"), np.array(1, np.int64)),
    Literal(Value("step/rest"), np.array([-1], np.int64)),
)
_LENGTHS = (
    Node("Shape", "step/new_tokens", (Value("input_ids"),), (Value("step/new_tokens"),),
         (("start", 1), ("end", 2))),
    Node("Add", "step/totals", (Value("context_lengths"), Value("step/new_tokens")),
         (Value("step/totals"),)),
    Node("Sub", "step/last", (Value("step/totals"), Value("step/one")), (Value("step/last"),)),
    Node("Cast", str(_LAST), (Value("step/last"),), (_LAST,), (("to", _INT32),)),
    Node("ReduceMax", "step/most", (Value("step/totals"),), (Value("step/most"),),
         (("keepdims", 0),)),
    Node("Cast", str(_TOTAL), (Value("step/most"),), (_TOTAL,), (("to", _INT32),)),
    Node("Shape", "step/sizes", (Value("input_ids"),), (Value("step/sizes"),)),
    Node("Concat", str(_ROWS_APART), (Value("step/sizes"), Value("step/rest")), (_ROWS_APART,),
         (("axis", 0),)),
)  # fmt: skip
"""Of each sequence the index of its last token, padding counted, and the longest one's length; and
the shape that lays rows [B * S, n] out as [B, S, n].
"""


def _is_readable(pool: Port) -> bool:
    assert pool.shape is not None
    head_dim = pool.shape[-1]
    return pool.type is ElementType.FLOAT32 and isinstance(head_dim, int) and head_dim % 8 == 0


def _has_windows(graph: Graph, attention: Iterable[Node]) -> bool:
    """Whether some mask hides more than what comes later: then two conditions are joined in it."""
    masks = {node.inputs[6] for node in attention}
    return any(node.op == "And" for node in _needed(graph.nodes, masks))


def _needed(nodes: Iterable[Node], results: Iterable[Port | Value]) -> list[Node]:
    """The nodes that results are computed from, in their order."""
    wanted = {each.name if isinstance(each, Port) else each for each in results}
    kept = []
    for node in reversed(list(nodes)):
        if not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return kept[::-1]


def _context(pool: Value) -> Value:
    kind, layer = pool.split(".")
    return Value(f"{_POOLS[kind]}.{layer}")


def _grown_name(pool: Value) -> Value:
    return Value(_context(pool).replace("_context.", "_grown."))


def _port(port: Port) -> Port:
    """[pages, page, kv_heads, D] becomes [B, kv_heads, T, D]."""
    if port.name.split(".")[0] not in _POOLS:
        return port
    assert port.shape is not None
    return Port(_context(port.name), port.type, ("batch", port.shape[2], "context", port.shape[3]))


def _grown(pool: Port) -> Port:
    return replace(_port(pool), name=_grown_name(pool.name))


def _drawn(graph: Graph, pools: Mapping[Value, Port]) -> Iterator[Node]:
    makers = {output: node for node in graph.nodes for output in node.outputs}
    for node in graph.nodes:
        if node.op == _PAGED:
            yield from _rewritten(node, pools, makers)
        else:
            yield node


def _rewritten(
    node: Node, pools: Mapping[Value, Port], makers: Mapping[Value, Node]
) -> Iterator[Node]:
    given, key_pool, value_pool = node.inputs[:3], *node.inputs[3:5]
    shape = pools[key_pool].shape
    assert shape is not None
    heads, scale = node.attribute("q_num_heads"), node.attribute("scale")
    kv_heads, head_dim = shape[2:]
    assert isinstance(heads, int)
    assert isinstance(kv_heads, int)
    assert isinstance(head_dim, int)
    assert isinstance(scale, float)
    attributes: dict[str, Attribute] = {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "scale": scale,
    }
    tables: tuple[Value, ...] = ()
    found = fused(node, makers, head_dim)
    if found is not None:
        attributes["do_rotary"] = 1
        packed, tables = Value(f"{node.name}/packed"), (found.cos, found.sin, POSITIONS)
        yield Node("Reshape", packed, (found.projection, _ROWS_APART), (packed,))
        given = (packed, _ABSENT, _ABSENT)
    yield Node(
        "GroupQueryAttention",
        node.name,
        (*given, _context(key_pool), _context(value_pool), _LAST, _TOTAL, *tables),
        (*node.outputs, _grown_name(key_pool), _grown_name(value_pool)),
        tuple(attributes.items()),
        domain="com.microsoft",
    )
