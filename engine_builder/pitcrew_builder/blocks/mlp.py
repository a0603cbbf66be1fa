"""Feed-forward blocks: the gated one that most families have, and the plain one."""

from dataclasses import dataclass

from pitcrew_builder.blocks.activation import ACTIVATIONS
from pitcrew_builder.blocks.linear import Inputs, Outputs, linear
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """The shape of `down(act(gate(x)) * up(x))`."""

    hidden: int
    intermediate: int
    bias: bool = False
    activation: str = "silu"

    def draw(self, e: Emitter, rows: Value, prefix: str) -> Value:
        """[T, hidden] to [T, hidden]."""
        return gated_mlp(e, self, rows, prefix)


@dataclass(frozen=True, slots=True)
class PlainMlp:
    """The shape of `down(act(up(x)))`, under the names that the checkpoint has for the two."""

    hidden: int
    intermediate: int
    bias: bool = False
    activation: str = "gelu_pytorch_tanh"
    up: str = "c_fc"
    down: str = "c_proj"

    def draw(self, e: Emitter, rows: Value, prefix: str) -> Value:
        """[T, hidden] to [T, hidden]."""
        part, wide = e.layout.features(self.intermediate), self.intermediate
        up, down = f"{prefix}.{self.up}", f"{prefix}.{self.down}"
        middle = linear(e, rows, up, self.hidden, wide, bias=self.bias, split=Outputs(part))
        middle = ACTIVATIONS[self.activation](e, middle)
        return linear(e, middle, down, wide, self.hidden, bias=self.bias, split=Inputs(part))


def gated_mlp(e: Emitter, shape: GatedMlp, rows: Value, prefix: str) -> Value:
    """[T, hidden] to [T, hidden]."""
    wide, bias = shape.intermediate, shape.bias
    part = e.layout.features(wide)
    own = Outputs(part)
    gate = linear(e, rows, f"{prefix}.gate_proj", shape.hidden, wide, bias=bias, split=own)
    up = linear(e, rows, f"{prefix}.up_proj", shape.hidden, wide, bias=bias, split=own)
    product = e.op("Mul", ACTIVATIONS[shape.activation](e, gate), up, name="gated")
    down = f"{prefix}.down_proj"
    return linear(e, product, down, wide, shape.hidden, bias=bias, split=Inputs(part))
