"""Do the libraries load, and do they build and run a network on this GPU?

Prints versions, the builder resources that were opened, and the distance of a product with bias
and an activation from numpy, in float16 and bfloat16.
"""

import time

import ml_dtypes
import numpy as np
from common import build, opened, trt
from saying import Fact
from session import Array, Native, Session

ROWS, INPUTS, OUTPUTS = 64, 512, 1024
PROFILE = {"x": ((1, INPUTS), (ROWS, INPUTS), (ROWS, INPUTS))}


def main() -> None:
    """Build, run, compare."""
    fact = Fact("library")
    fact.say("version", trt.__version__)
    for name, dtype in (("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        compare(fact, name, Perceptron(dtype))
    fact.say("resources opened", ", ".join(opened("nvinfer")))
    fact.end()


class Perceptron:
    """y = relu(x w + b), with random weights; it holds them while a network points to them."""

    def __init__(self, dtype: Native) -> None:
        rng = np.random.default_rng(0)
        self.dtype = dtype
        self.x = self._noise(rng, ROWS, INPUTS)
        self.w = self._noise(rng, INPUTS, OUTPUTS, scale=INPUTS**-0.5)
        self.b = self._noise(rng, 1, OUTPUTS)

    def draw(self, network: Native) -> None:
        """Into an empty network."""
        kind = trt.float16 if self.dtype is np.float16 else trt.bfloat16
        none = trt.MatrixOperation.NONE
        w, b = (
            network.add_constant(array.shape, trt.Weights(kind, array.ctypes.data, array.size))
            for array in (self.w, self.b)
        )
        x = network.add_input("x", kind, (-1, INPUTS))
        product = network.add_matrix_multiply(x, none, w.get_output(0), none)
        added = network.add_elementwise(
            product.get_output(0), b.get_output(0), trt.ElementWiseOperation.SUM
        )
        y = network.add_activation(added.get_output(0), trt.ActivationType.RELU).get_output(0)
        y.name = "y"
        network.mark_output(y)

    def reference(self) -> Array:
        """In float32, of the rounded tensors."""
        x, w, b = (array.astype(np.float32) for array in (self.x, self.w, self.b))
        return np.maximum(x @ w + b, 0)

    def _noise(self, rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
        return (scale * rng.standard_normal(shape, dtype=np.float32)).astype(self.dtype)


def compare(fact: Fact, name: str, network: Perceptron) -> None:
    """Build twice, run once."""
    start = time.perf_counter()
    plan = build(network.draw, PROFILE)
    fact.say(f"{name} built in", f"{time.perf_counter() - start:.1f} s, {len(plan)} bytes")
    again = build(network.draw, PROFILE)
    differing = sum(a != b for a, b in zip(plan, again, strict=False))
    fact.say(f"{name} bytes that differ in a second build", differing)
    (y,) = Session(trt, plan).run(["y"], {"x": network.x})
    wanted = network.reference()
    error = np.linalg.norm(y - wanted) / np.linalg.norm(wanted)
    fact.check(f"{name} relative error {error:.1e}", error < 2e-2)


if __name__ == "__main__":
    main()
