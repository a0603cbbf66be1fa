"""Paged attention as a model-local function of standard operators, and the mask it is given.

`llm::PagedAttention` is one node to a runtime that brings a kernel of that name, and is inlined by
one that does not. Its body copies a sequence's pages side by side, appends the new keys and values,
and attends under an additive mask. The mask depends on no layer and is built once.
"""

from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import AttributeKind, AttributeRef, Function, Node, Value

MASKED = -1e30
"""Added to a forbidden score. Finite, so that no row turns to NaN; its exponential is exactly 0."""


def _node(op: str, inputs: str, output: str, **attributes: int | AttributeRef) -> Node:
    names = tuple(Value(name) for name in inputs.split())
    return Node(op, output, names, (Value(output),), tuple(attributes.items()))


def _constant(output: str, value: AttributeRef | tuple[int, ...]) -> Node:
    return Node("Constant", output, (), (Value(output),), (("value_ints", value),))


_BODY = (
    _constant("side_by_side", AttributeRef("context_shape", AttributeKind.INTS)),
    _node("Gather", "key_pool block_tables", "key_pages", axis=0),
    _node("Gather", "value_pool block_tables", "value_pages", axis=0),
    _node("Reshape", "key_pages side_by_side", "past_keys"),
    _node("Reshape", "value_pages side_by_side", "past_values"),
    _node("Concat", "past_keys keys", "all_keys", axis=1),
    _node("Concat", "past_values values", "all_values", axis=1),
    _node(
        "Attention",
        "queries all_keys all_values mask",
        "attended",
        q_num_heads=AttributeRef("q_num_heads", AttributeKind.INT),
        kv_num_heads=AttributeRef("kv_num_heads", AttributeKind.INT),
        scale=AttributeRef("scale", AttributeKind.FLOAT),
    ),
)

PAGED_ATTENTION = Function(
    domain="llm",
    name="PagedAttention",
    inputs=tuple(
        Value(name)
        for name in ["queries", "keys", "values", "key_pool", "value_pool", "block_tables", "mask"]
    ),
    outputs=(Value("attended"),),
    attributes=(
        "q_num_heads",
        "kv_num_heads",
        "scale",
        "context_shape",
        "plugin_namespace",
        "plugin_version",
    ),
    nodes=_BODY,
)


def paged_attention(
    e: Emitter,
    queries: Value,
    keys: Value,
    values: Value,
    *,
    pools: tuple[Value, Value],
    block_tables: Value,
    mask: Value,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
) -> Value:
    """Attend from `queries` [B, S, heads * D] to the pooled and the new keys.

    `keys` and `values` are [B, S, kv_heads * D], the pools [pages, page, kv_heads, D],
    `block_tables` [B, P], `mask` [B, 1, S, P * page + S]. Returns [B, S, heads * D].
    """
    return e.op(
        e.function(PAGED_ATTENTION),
        queries,
        keys,
        values,
        *pools,
        block_tables,
        mask,
        name="paged",
        q_num_heads=heads,
        kv_num_heads=kv_heads,
        scale=scale,
        context_shape=(0, -1, kv_heads * head_dim),
        plugin_namespace="pitcrew",
        plugin_version="1",
    )


def additive_mask(
    e: Emitter, input_ids: Value, block_tables: Value, context_lengths: Value, page: int
) -> Value:
    """0 where a new token may look, `MASKED` where not: [B, 1, S, P * page + S]."""
    batch = e.op("Shape", input_ids, name="batch", start=0, end=1)
    new = e.op("Shape", input_ids, name="new", start=1, end=2)
    blocks = e.op("Shape", block_tables, name="blocks", start=1, end=2)
    capacity = e.op("Mul", blocks, e.ints(page), name="capacity")
    past = _past_mask(e, context_lengths, capacity)
    causal = _causal_mask(e, new)
    one = e.ints(1)
    past = e.op("Expand", past, e.op("Concat", batch, one, new, capacity, axis=0), name="past")
    causal = e.op("Expand", causal, e.op("Concat", batch, one, new, new, axis=0), name="causal")
    return e.op("Concat", past, causal, name="mask", axis=3)


def _range(e: Emitter, length: Value) -> Value:
    """0 to length - 1; `length` is a vector of one element."""
    scalar = e.op("Squeeze", length)
    return e.op("Range", e.int(0), scalar, e.int(1))


def _past_mask(e: Emitter, context_lengths: Value, capacity: Value) -> Value:
    """[B, 1, 1, capacity]: a slot counts while it lies within its sequence's context."""
    lengths = e.op("Unsqueeze", context_lengths, e.ints(1, 2, 3))
    inside = e.op("Less", _range(e, capacity), lengths)
    return e.op("Where", inside, e.float(0.0), e.float(MASKED))


def _causal_mask(e: Emitter, new: Value) -> Value:
    """[S, S]: a new token sees itself and the new tokens before it."""
    index = _range(e, new)
    seen = e.op("LessOrEqual", index, e.op("Unsqueeze", index, e.ints(1)))
    return e.op("Where", seen, e.float(0.0), e.float(MASKED))
