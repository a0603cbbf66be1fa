"""Element-wise functions of feed-forward blocks, by the names that configs give them."""

from collections.abc import Callable, Mapping

from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


def silu(e: Emitter, value: Value) -> Value:
    """x * sigmoid(x), in the two nodes that runtimes know how to fuse."""
    return e.op("Mul", value, e.op("Sigmoid", value), name="silu")


def gelu(e: Emitter, value: Value) -> Value:
    """x times the normal distribution's cumulative function."""
    return e.op("Gelu", value, name="gelu")


def gelu_tanh(e: Emitter, value: Value) -> Value:
    """Gelu's approximation by a hyperbolic tangent."""
    return e.op("Gelu", value, name="gelu", approximate="tanh")


def relu(e: Emitter, value: Value) -> Value:
    """The positive part."""
    return e.op("Relu", value, name="relu")


def quick_gelu(e: Emitter, value: Value) -> Value:
    """Gelu's approximation by a sigmoid."""
    steep = e.op("Mul", value, e.float(1.702), name="steep")
    return e.op("Mul", value, e.op("Sigmoid", steep), name="quick_gelu")


def squared_relu(e: Emitter, value: Value) -> Value:
    """The square of the positive part."""
    positive = relu(e, value)
    return e.op("Mul", positive, positive, name="squared_relu")


ACTIVATIONS: Mapping[str, Callable[[Emitter, Value], Value]] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "relu2": squared_relu,
}
"""Name in a config -> how it is drawn."""
