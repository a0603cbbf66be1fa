"""A mixture of experts: every row is sent through a few of many feed-forward blocks.

`llm::MixtureOfExperts` takes the experts stacked, [experts, out, in] each, and how much every row
wants of every expert. Its body multiplies all experts with all rows and weighs the results, which
reads every weight exactly once whatever the routing: a runtime with a kernel of that name reads the
chosen ones only. Rows are columns in between, so the matrices stay as the checkpoint has them; a
twin of each function takes them [experts, in, out] and the rows as they are, another calls
`llm::ExpertProducts` for kernels that take both as they are.

The router's scores are float32. An expert rank holds a range of the experts, a tensor rank a range
of every expert's width; the sum over both is the block's output.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from pitcrew_builder.blocks.linear import linear
from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.blocks.products import EXPERT_PRODUCTS
from pitcrew_builder.graph.body import ints, node, values
from pitcrew_builder.graph.collectives import all_reduce
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Function, Node, Value

_SILU = (
    node("Sigmoid", "gated", "opened"),
    node("Mul", "gated opened", "silu"),
    node("Mul", "silu wide", "inner"),
)

_CLAMPED = (
    node("Add", "gated gate_shift", "gate_sum"),
    node("Add", "wide up_shift", "up_sum"),
    node("Min", "gate_sum limit", "gate_clamped"),
    node("Neg", "limit", "lower"),
    node("Min", "up_sum limit", "up_below"),
    node("Max", "up_below lower", "up_clamped"),
    node("Mul", "gate_clamped alpha", "steep"),
    node("Sigmoid", "steep", "opened"),
    node("Mul", "gate_clamped opened", "glu"),
    node("Add", "up_clamped one", "lifted"),
    node("Mul", "lifted glu", "inner"),
)


class _Form(Enum):
    """How a mixture's matrices and rows meet."""

    COLUMNS = "[E, out, in] times rows as columns"
    ROWS = "rows times [E, in, out]"
    PRODUCTS = "rows and [E, out, in], by a function"


def _mixture(name: str, form: _Form) -> Function:
    """down(silu(gate(x)) * up(x)), weighed by `routing` [T, experts] and summed: [T, hidden]."""
    nodes = (
        *_shares(form),
        _product("gate", "rows", "gated", form),
        _product("up", "rows", "wide", form),
        *_SILU,
        # The inner product is linear: weighing before it is cheaper where the experts are narrow.
        node("Mul", "inner shares", "shared_inner"),
        _product("down", "shared_inner", "weighed", form),
        *_sum(form),
    )
    inputs = values("rows routing gate up down")
    return Function("llm", name, inputs, values("mixed"), tuple(PLUGIN), nodes)


def _clamped_mixture(name: str, form: _Form) -> Function:
    """The same with biases and down((up + 1) * gate * sigmoid(alpha * gate)), both sides clamped."""
    biased = ints("bias_axis", 2 if form is _Form.COLUMNS else 1)
    nodes = (
        *_shares(form),
        biased,
        node("Unsqueeze", "gate_bias bias_axis", "gate_shift"),
        node("Unsqueeze", "up_bias bias_axis", "up_shift"),
        node("Unsqueeze", "down_bias bias_axis", "down_shift"),
        _product("gate", "rows", "gated", form),
        _product("up", "rows", "wide", form),
        *_CLAMPED,
        _product("down", "inner", "down_product", form),
        node("Add", "down_product down_shift", "outer"),
        node("Mul", "outer shares", "weighed"),
        *_sum(form),
    )
    inputs = values("rows routing gate up down gate_bias up_bias down_bias alpha limit one")
    return Function("llm", name, inputs, values("mixed"), tuple(PLUGIN), nodes)


def _shares(form: _Form) -> tuple[Node, ...]:
    """`routing` by expert, beside the experts' products; and the rows, as columns if need be."""
    by_columns = form is _Form.COLUMNS
    turned = (node("Transpose", "rows", "columns", perm=(1, 0)),) if by_columns else ()
    return (
        ints("experts_axis", 0),
        ints("shares_axis", 1 if by_columns else 2),
        *turned,
        node("Transpose", "routing", "routing_by_expert", perm=(1, 0)),
        node("Unsqueeze", "routing_by_expert shares_axis", "shares"),
    )


def _product(matrix: str, value: str, result: str, form: _Form) -> Node:
    if form is _Form.ROWS:
        return node("MatMul", f"{value} {matrix}", result)
    if form is _Form.PRODUCTS:
        call = node(EXPERT_PRODUCTS.name, f"{value} {matrix}", result, **PLUGIN)
        return replace(call, domain=EXPERT_PRODUCTS.domain)
    return node("MatMul", f"{matrix} {'columns' if value == 'rows' else value}", result)


def _sum(form: _Form) -> tuple[Node, ...]:
    if form is not _Form.COLUMNS:
        return (node("ReduceSum", "weighed experts_axis", "mixed", keepdims=0),)
    return (
        node("ReduceSum", "weighed experts_axis", "total", keepdims=0),
        node("Transpose", "total", "mixed", perm=(1, 0)),
    )


MIXTURE_OF_EXPERTS = _mixture("MixtureOfExperts", _Form.COLUMNS)
CLAMPED_MIXTURE_OF_EXPERTS = _clamped_mixture("ClampedMixtureOfExperts", _Form.COLUMNS)

BY_ROWS: Mapping[str, Function] = {
    MIXTURE_OF_EXPERTS.name: _mixture("MixtureOfExpertsByRows", _Form.ROWS),
    CLAMPED_MIXTURE_OF_EXPERTS.name: _clamped_mixture("ClampedMixtureOfExpertsByRows", _Form.ROWS),
}
"""The same functions over matrices [experts, in, out], as codes lie: by name of the other."""

BY_PRODUCTS: Mapping[str, Function] = {
    MIXTURE_OF_EXPERTS.name: _mixture("MixtureOfExpertsByProducts", _Form.PRODUCTS),
    CLAMPED_MIXTURE_OF_EXPERTS.name: _clamped_mixture(
        "ClampedMixtureOfExpertsByProducts", _Form.PRODUCTS
    ),
}
"""The same functions by calls of `llm::ExpertProducts`, which has to be in the graph too."""

ROUTING, MATRICES = 1, range(2, 5)
"""Places of a mixture's inputs: rows, routing, and gate, up and down."""

INNER = Value("inner")
"""What the down projections read, inside of a mixture: [experts, width, T]."""


def is_mixture(node: Node) -> bool:
    """Whether a node is a mixture of experts over matrices as the checkpoint has them."""
    return node.domain == "llm" and node.op in BY_ROWS


@dataclass(frozen=True, slots=True)
class Clamp:
    """The activation of GPT-OSS."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """The shape of one mixture, and how rows choose."""

    hidden: int
    intermediate: int
    experts: int
    chosen: int
    """Experts for each row."""
    normalized: bool = True
    """Whether the shares of the chosen add up to 1."""
    router: str = "gate"
    router_bias: bool = False
    clamp: Clamp | None = None
    """Set where experts have biases and a clamped activation."""

    def draw(self, e: Emitter, rows: Value, prefix: str) -> Value:
        """[T, hidden] to [T, hidden]."""
        own = e.layout.experts(self.experts)
        routing = _own_shares(e, self, _routing(e, self, rows, f"{prefix}.{self.router}"), own)
        gate, up, down = (_matrices(e, self, prefix, name, own) for name in _MATRICES)
        if self.clamp is None:
            op = e.function(MIXTURE_OF_EXPERTS)
            mixed = e.op(op, rows, routing, gate, up, down, name="experts", **PLUGIN)
        else:
            op = e.function(CLAMPED_MIXTURE_OF_EXPERTS)
            biases = [_biases(e, self, prefix, name, own) for name in _MATRICES]
            numbers = [e.float(x) for x in (self.clamp.alpha, self.clamp.limit, 1.0)]
            operands = (rows, routing, gate, up, down, *biases, *numbers)
            mixed = e.op(op, *operands, name="experts", **PLUGIN)
        return all_reduce(e, mixed, e.layout.expert_group)


_MATRICES = ("gate_proj", "up_proj", "down_proj")


def _routing(e: Emitter, shape: MixtureOfExperts, rows: Value, name: str) -> Value:
    """How much each row wants of each expert [T, experts]: 0 of all but the chosen."""
    scores = linear(e, rows, name, shape.hidden, shape.experts, bias=shape.router_bias)
    count = e.ints(shape.chosen)
    # Normalized shares are the softmax of the chosen scores alone.
    ranked = scores if shape.normalized else e.op("Softmax", scores, name="shares", axis=-1)
    best, indices = e.ops("TopK", ranked, count, outputs=2, name="chosen", axis=-1)
    if shape.normalized:
        best = e.op("Softmax", best, name="shares", axis=-1)
    nothing = e.op("Sub", scores, scores, name="nothing")
    return e.op("ScatterElements", nothing, indices, best, name="routing", axis=1)


def _own_shares(e: Emitter, shape: MixtureOfExperts, routing: Value, own: range) -> Value:
    if len(own) == shape.experts:
        return routing
    return e.op(
        "Slice", routing, e.ints(own.start), e.ints(own.stop), e.ints(1), name="own_routing"
    )


def _matrices(e: Emitter, shape: MixtureOfExperts, prefix: str, name: str, own: range) -> Value:
    part = e.layout.features(shape.intermediate)
    is_down = name == "down_proj"
    outputs, inputs = (shape.hidden, shape.intermediate)[:: 1 if is_down else -1]
    entries = [f"{prefix}.experts.{index}.{name}.weight" for index in own]
    cut = {1 if is_down else 0: part}
    return e.stack(f"{prefix}.experts.{name}.weight", entries, outputs, inputs, parts=cut)


def _biases(e: Emitter, shape: MixtureOfExperts, prefix: str, name: str, own: range) -> Value:
    """[experts, out]. A down projection's sums are added up over tensor ranks, its bias once."""
    entries = [f"{prefix}.experts.{index}.{name}.bias" for index in own]
    label = f"{prefix}.experts.{name}.bias"
    if name == "down_proj":
        biases = e.stack(label, entries, shape.hidden)
        return biases if e.layout.tensor == 0 else e.op("Sub", biases, biases, name="no_bias")
    part = e.layout.features(shape.intermediate)
    return e.stack(label, entries, shape.intermediate, parts={0: part})
