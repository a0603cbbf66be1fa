"""The norms of decoder layers."""

from dataclasses import dataclass

from pitcrew_builder.blocks.linear import rms_norm
from pitcrew_builder.graph.collectives import all_reduce
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


@dataclass(frozen=True, slots=True)
class Norm:
    """Root mean square, or a layer norm that centres too."""

    epsilon: float
    centred: bool = False
    """A layer norm, with `<name>.bias`."""

    def draw(self, e: Emitter, value: Value, name: str, width: int) -> Value:
        """Normalize the last axis [..., width] and scale it by `<name>.weight`."""
        if not self.centred:
            return rms_norm(e, value, name, width, self.epsilon)
        scale, shift = e.weight(f"{name}.weight", width), e.weight(f"{name}.bias", width)
        label = name.rsplit(".", 1)[-1]
        return e.op(
            "LayerNormalization", value, scale, shift, name=label, axis=-1, epsilon=self.epsilon
        )


def split_rms_norm(
    e: Emitter, value: Value, name: str, width: int, part: range, epsilon: float
) -> Value:
    """RMS norm over all `width` elements of the last axis, of which this rank has `part`."""
    if len(part) == width:
        return rms_norm(e, value, name, width, epsilon)
    squares = e.op("ReduceSum", e.op("Mul", value, value), e.ints(-1), name="squares", keepdims=1)
    group = e.layout.tensor_group
    total = all_reduce(e, squares, group)
    # Heads that several ranks hold count several times, in the sum and here.
    mean = e.op("Mul", total, e.float(1.0 / (len(part) * len(group))), name="mean_square")
    root = e.op("Sqrt", e.op("Add", mean, e.float(epsilon)), name="root")
    scale = e.weight(f"{name}.weight", width, parts={0: part})
    return e.op("Mul", e.op("Div", value, root), scale, name=name.rsplit(".", 1)[-1])
