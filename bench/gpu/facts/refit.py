"""Does refitting change every weight, biases too, and what does it cost?

A product with bias, an activation and another product: built with REFIT, with REFIT_IDENTICAL,
and stripped; then given other weights, and compared with a network built with those.
"""

import time

import numpy as np
from common import build, trt
from saying import Fact
from session import Session

NAMES = ("w0", "b0", "w1", "b1")
SHAPES = ((256, 512), (1, 512), (512, 256), (1, 256))


def main() -> None:
    """All three."""
    fact = Fact("refit")
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
        plan = build(lambda network, w=weights: draw(network, w), profile, flags=flags)
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


def draw(network: object, weights: dict[str, np.ndarray]) -> None:
    """y = relu(x w0 + b0) w1 + b1."""
    value = network.add_input("x", trt.float16, (-1, 256))
    none = trt.MatrixOperation.NONE
    for index in range(2):
        w, b = (constant(network, f"{kind}{index}", weights) for kind in "wb")
        value = network.add_matrix_multiply(value, none, w, none).get_output(0)
        value = network.add_elementwise(value, b, trt.ElementWiseOperation.SUM).get_output(0)
        if index == 0:
            value = network.add_activation(value, trt.ActivationType.RELU).get_output(0)
    value.name = "y"
    network.mark_output(value)


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
    return np.maximum(x @ wide["w0"] + wide["b0"], 0) @ wide["w1"] + wide["b1"]


if __name__ == "__main__":
    main()
