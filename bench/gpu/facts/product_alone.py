"""The plugins for products alone in a plan: against numpy, and in a CUDA graph.

Few rows, and so many that Hopper's own products (`wgmma`, PTX for sm_90a) run in the plan.
"""

import ml_dtypes
import numpy as np
import tensorrt.plugin as trtp
from common import build, trt
from saying import Fact
from session import Replay, Session

from pitcrew_builder.targets.trt.products import register

OUTPUTS, INPUTS = 1536, 2048
ROWS = (1, 100, 129, 512, 2048)
TYPES = {"fp16": (np.float16, 1e-3), "bf16": (ml_dtypes.bfloat16, 6e-3)}


def main() -> None:
    """Both precisions, with and without bias."""
    register(90)
    fact = Fact("products alone in a plan")
    for name, (dtype, bound) in TYPES.items():
        for biased in (False, True):
            verify(fact, f"{name}{' biased' if biased else ''}", dtype, bound, biased=biased)
    fact.end()


def verify(fact: Fact, name: str, dtype: object, bound: float, *, biased: bool) -> None:
    """One plan, all numbers of rows."""
    kind = trt.float16 if dtype is np.float16 else trt.bfloat16
    wide = np.random.default_rng(0).standard_normal
    feeds = {"w": wide((OUTPUTS, INPUTS), np.float32)}
    if biased:
        feeds["bias"] = wide(OUTPUTS, np.float32)
    fixed = {key: (value.shape,) * 3 for key, value in feeds.items()}
    profile = {"x": tuple((rows, INPUTS) for rows in (1, ROWS[-1], ROWS[-1])), **fixed}
    session = Session(trt, build(lambda network: draw(network, kind, biased=biased), profile))
    for rows in ROWS:
        given = {"x": wide((rows, INPUTS), np.float32), **feeds}
        (found,) = session.run(["y"], given)
        x, w, *bias = (given[key].astype(dtype).astype(np.float32) for key in ("x", *feeds))
        wanted = x @ w.T + (bias[0] if bias else 0)
        error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
        held = session.bind(given)
        session.enqueue()
        replay = Replay(session)
        held["y"].fill(np.zeros(found.size, np.int16))
        replay()
        session.wait()
        same = np.array_equal(found, session.read("y", held["y"]))
        fact.check(f"{name}: {rows} rows: error {error:.1e}, and replayed", error < bound and same)


def draw(network: object, kind: object, *, biased: bool) -> None:
    """One plugin."""
    x = network.add_input("x", kind, (-1, INPUTS))
    w = network.add_input("w", kind, (OUTPUTS, INPUTS))
    if biased:
        call = trtp.op.pitcrew.BiasedProduct(x, w, network.add_input("bias", kind, (OUTPUTS,)))
    else:
        call = trtp.op.pitcrew.Product(x, w)
    layer = network.add_plugin(call, aot=True)
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))


if __name__ == "__main__":
    main()
