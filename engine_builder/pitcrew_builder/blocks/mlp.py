"""The gated feed-forward block."""

from dataclasses import dataclass

from pitcrew_builder.blocks.linear import Inputs, Outputs, linear
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """The shape of `down(silu(gate(x)) * up(x))`."""

    hidden: int
    intermediate: int
    bias: bool = False


def gated_mlp(e: Emitter, shape: GatedMlp, rows: Value, prefix: str) -> Value:
    """[T, hidden] to [T, hidden]."""
    wide, bias = shape.intermediate, shape.bias
    part = e.layout.features(wide)
    own = Outputs(part)
    gate = linear(e, rows, f"{prefix}.gate_proj", shape.hidden, wide, bias=bias, split=own)
    up = linear(e, rows, f"{prefix}.up_proj", shape.hidden, wide, bias=bias, split=own)
    product = e.op("Mul", silu(e, gate), up, name="gated")
    down = f"{prefix}.down_proj"
    return linear(e, product, down, wide, shape.hidden, bias=bias, split=Inputs(part))


def silu(e: Emitter, value: Value) -> Value:
    """x * sigmoid(x), in the two nodes that runtimes know how to fuse."""
    return e.op("Mul", value, e.op("Sigmoid", value), name="silu")
