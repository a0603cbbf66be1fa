"""Does refitting change every weight, biases too, and what does it cost?

A product with bias, an activation and another product: built with REFIT, with REFIT_IDENTICAL,
and stripped; then given other weights, and compared with a network built with those.
"""

import argparse
import time

import numpy as np
from common import build, trt
from saying import Fact
from session import Session

from pitcrew_builder.targets.trt.products.plugin import register

NAMES = ("w0", "b0", "w1", "b1")
SHAPES = ((512, 256), (512,), (256, 512), (256,))


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", default="operators", choices=["operators", "kernel"])
    options = parser.parse_args()
    product = by_plugin if options.products == "kernel" else by_operators
    if options.products == "kernel":
        register(90)
    fact = Fact(f"refit, products {options.products}")
    rng = np.random.default_rng(0)
    old, new = (
        {name: (rng.standard_normal(shape) / 16).astype(np.float16)
         for name, shape in zip(NAMES, SHAPES, strict=True)}
        for _ in range(2)
    )  # fmt: skip
    x = rng.standard_normal((16, 256), dtype=np.float32)
    profile = {"x": ((1, 256), (16, 256), (16, 256))}
    flag = trt.BuilderFlag
    wanted = reference(new, x)
    fact.say("old against new", f"{np.abs(reference(old, x) - wanted).max():.2f} apart")
    for name, flags in (
        ("REFIT", (flag.REFIT,)),
        ("REFIT, stripped", (flag.REFIT, flag.STRIP_PLAN)),
        ("REFIT_IDENTICAL, stripped", (flag.REFIT_IDENTICAL, flag.STRIP_PLAN)),
    ):
        weights = new if "IDENTICAL" in name else old
        plan = build(lambda network, w=weights: draw(network, w, product), profile, flags=flags)
        session = Session(trt, plan)
        logger = trt.Logger(trt.Logger.WARNING)
        refitter = trt.Refitter(session.engine, logger)
        known = sorted(refitter.get_all_weights())
        start = time.perf_counter()
        for key, array in new.items():
            if key in known:
                refitter.set_named_weights(
                    key, trt.Weights(trt.float16, array.ctypes.data, array.size)
                )
        missing = refitter.get_missing_weights()
        done = refitter.refit_cuda_engine()
        seconds = time.perf_counter() - start
        fact.say(name, f"{len(plan)} bytes; can refit {known}; missing {missing}; {seconds:.3f} s")
        (y,) = session.run(["y"], {"x": x})
        distance = float(np.abs(y - wanted).max())
        fact.check(
            f"{name}: refit says {done}, result {distance:.1e} from the new weights",
            distance < 0.05,
        )
    fact.end()


def draw(network: object, weights: dict[str, np.ndarray], product: object) -> None:
    """y = relu(x w0' + b0) w1' + b1."""
    value = network.add_input("x", trt.float16, (-1, 256))
    for index in range(2):
        w, b = (constant(network, f"{kind}{index}", weights) for kind in "wb")
        value = product(network, value, w, b)
        if index == 0:
            value = network.add_activation(value, trt.ActivationType.RELU).get_output(0)
    value.name = "y"
    network.mark_output(value)


def by_operators(network: object, x: object, w: object, b: object) -> object:
    """By TensorRT's own."""
    none, turned = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    value = network.add_matrix_multiply(x, none, w, turned).get_output(0)
    shift = network.add_shuffle(b)
    shift.reshape_dims = (1, -1)
    operation = trt.ElementWiseOperation.SUM
    return network.add_elementwise(value, shift.get_output(0), operation).get_output(0)


def by_plugin(network: object, x: object, w: object, b: object) -> object:
    """By our kernel, of which the weights are inputs."""
    import tensorrt.plugin as trtp

    layer = network.add_plugin(trtp.op.pitcrew.BiasedProduct(x, w, b), aot=True)
    return layer.get_output(0)


def constant(network: object, name: str, weights: dict[str, np.ndarray]) -> object:
    """A constant whose weights have a name."""
    array = weights[name]
    native = trt.Weights(trt.float16, array.ctypes.data, array.size)
    layer = network.add_constant(array.shape, native)
    network.set_weights_name(native, name)
    return layer.get_output(0)


def reference(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """In float32."""
    wide = {name: array.astype(np.float32) for name, array in weights.items()}
    x = x.astype(np.float16).astype(np.float32)
    return np.maximum(x @ wide["w0"].T + wide["b0"], 0) @ wide["w1"].T + wide["b1"]


if __name__ == "__main__":
    main()
