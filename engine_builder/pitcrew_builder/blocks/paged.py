"""Paged attention as model-local functions of standard operators.

`llm::PagedAttention` is one node to a runtime that brings a kernel of that name, and is inlined by
one that does not. Its body copies a sequence's pages side by side, appends the new keys and values,
and attends under an additive mask.

Two variations spell attention out, because TensorRT's operator knows neither: scores that are bent
below a cap (Gemma 2), and heads with a sink, a learned score that takes weight and gives nothing
(GPT-OSS). The softmax then runs over one column more, which is cut off after it.
"""

from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.graph.body import given_float, given_int, given_ints, ints, node, values
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Attribute, Function, Node, Value

SIDE_BY_SIDE = (
    given_ints("side_by_side", "context_shape"),
    node("Gather", "key_pool block_tables", "key_pages", axis=0),
    node("Gather", "value_pool block_tables", "value_pages", axis=0),
    node("Reshape", "key_pages side_by_side", "past_keys"),
    node("Reshape", "value_pages side_by_side", "past_values"),
    node("Concat", "past_keys keys", "all_keys", axis=1),
    node("Concat", "past_values values", "all_values", axis=1),
)
"""Every function's first nodes: from the inputs to `all_keys` and `all_values`."""

_FUSED = (
    node(
        "Attention",
        "queries all_keys all_values mask",
        "attended",
        q_num_heads=given_int("q_num_heads"),
        kv_num_heads=given_int("kv_num_heads"),
        scale=given_float("scale"),
    ),
)

# G queries share a KV head: [B, kv_heads, G, S, D] against [B, kv_heads, 1, D, T].
_SCORES = (
    given_ints("query_groups", "query_shape"),
    given_ints("key_groups", "key_shape"),
    node("Reshape", "queries query_groups", "grouped_queries"),
    node("Reshape", "all_keys key_groups", "grouped_keys"),
    node("Reshape", "all_values key_groups", "grouped_values"),
    node("Transpose", "grouped_queries", "queries_by_head", perm=(0, 2, 3, 1, 4)),
    node("Transpose", "grouped_keys", "keys_by_head", perm=(0, 2, 3, 4, 1)),
    node("Transpose", "grouped_values", "values_by_head", perm=(0, 2, 3, 1, 4)),
    node("MatMul", "queries_by_head keys_by_head", "products"),
    node("Mul", "products scale", "scores"),
    ints("one", 1),
    node("Unsqueeze", "mask one", "mask_by_head"),
)

_CAPPED = (
    node("Div", "scores softcap", "relative"),
    node("Tanh", "relative", "bent"),
    node("Mul", "bent softcap", "capped"),
    node("Add", "capped mask_by_head", "masked"),
    node("Softmax", "masked", "weights", axis=-1),
)

_WITH_SINKS = (
    node("Add", "scores mask_by_head", "masked"),
    # A column of the scores' own shape, whatever that is, to lay the sinks in.
    node("ReduceMax", "masked last_axis", "highest", keepdims=1),
    node("Sub", "highest highest", "empty_column"),
    given_ints("sink_groups", "sink_shape"),
    node("Reshape", "sinks sink_groups", "grouped_sinks"),
    node("Add", "empty_column grouped_sinks", "sink_column"),
    node("Concat", "masked sink_column", "with_sinks", axis=-1),
    node("Softmax", "with_sinks", "all_weights", axis=-1),
    ints("first", 0),
    node("Slice", "all_weights first last_axis last_axis", "weights"),
)

_MIXED = (
    node("MatMul", "weights values_by_head", "mixed"),
    node("Transpose", "mixed", "mixed_by_token", perm=(0, 3, 1, 2, 4)),
    given_ints("flat", "attended_shape"),
    node("Reshape", "mixed_by_token flat", "attended"),
)

_INPUTS = values("queries keys values key_pool value_pool block_tables mask")
_HEADS = ("q_num_heads", "kv_num_heads")
_GROUPS = ("context_shape", "query_shape", "key_shape", "attended_shape")


def _function(
    name: str, extra: str, attributes: tuple[str, ...], *nodes: tuple[Node, ...]
) -> Function:
    return Function(
        domain="llm",
        name=name,
        inputs=(*_INPUTS, *values(extra)),
        outputs=values("attended"),
        attributes=attributes,
        nodes=tuple(item for group in nodes for item in group),
    )


PAGED_ATTENTION = _function(
    "PagedAttention",
    "",
    (*_HEADS, "scale", "context_shape", *PLUGIN),
    SIDE_BY_SIDE,
    _FUSED,
)
CAPPED_PAGED_ATTENTION = _function(
    "CappedPagedAttention",
    "scale softcap",
    (*_HEADS, *_GROUPS, *PLUGIN),
    SIDE_BY_SIDE,
    _SCORES,
    _CAPPED,
    _MIXED,
)
SINK_PAGED_ATTENTION = _function(
    "SinkPagedAttention",
    "scale sinks",
    (*_HEADS, *_GROUPS, "sink_shape", *PLUGIN),
    SIDE_BY_SIDE,
    _SCORES,
    (ints("last_axis", -1), *_WITH_SINKS),
    _MIXED,
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
    softcap: float | None = None,
    sinks: Value | None = None,
) -> Value:
    """Attend from `queries` [B, S, heads * D] to the pooled and the new keys.

    `keys` and `values` are [B, S, kv_heads * D], the pools [pages, page, kv_heads, D],
    `block_tables` [B, P], `mask` [B, 1, S, P * page + S], `sinks` [heads]. There is a cap or there
    are sinks, not both. Returns [B, S, heads * D].
    """
    inputs = (queries, keys, values, *pools, block_tables, mask)
    common: dict[str, Attribute] = {
        "q_num_heads": heads,
        "kv_num_heads": kv_heads,
        "context_shape": (0, -1, kv_heads * head_dim),
        **PLUGIN,
    }
    if softcap is None and sinks is None:
        op = e.function(PAGED_ATTENTION)
        return e.op(op, *inputs, name="paged", scale=scale, **common)
    common |= _groups(heads, kv_heads, head_dim)
    if sinks is None:
        assert softcap is not None
        op = e.function(CAPPED_PAGED_ATTENTION)
        return e.op(op, *inputs, e.float(scale), e.float(softcap), name="paged", **common)
    assert softcap is None
    common["sink_shape"] = (1, kv_heads, heads // kv_heads, 1, 1)
    op = e.function(SINK_PAGED_ATTENTION)
    return e.op(op, *inputs, e.float(scale), sinks, name="paged", **common)


def _groups(heads: int, kv_heads: int, head_dim: int) -> dict[str, Attribute]:
    return {
        "query_shape": (0, 0, kv_heads, heads // kv_heads, head_dim),
        "key_shape": (0, -1, kv_heads, 1, head_dim),
        "attended_shape": (0, 0, heads * head_dim),
    }
