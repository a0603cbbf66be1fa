"""Linear maps and norms over rows [T, width], weights in the checkpoint's own [out, in] layout.

`Gemm` with `transB` takes that layout as it is, so serialization copies rows in order and never
transposes, joined projections are plain concatenations, and a tied LM head shares its bytes with
the embedding. ONNX Runtime packs the matrix once at load; TensorRT takes it as it stands.
"""

from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


def linear(e: Emitter, rows: Value, name: str, inputs: int, outputs: int, *, bias: bool) -> Value:
    """`rows` [T, inputs] times `<name>.weight` [outputs, inputs] transposed, plus `<name>.bias`."""
    operands = [rows, e.weight(f"{name}.weight", outputs, inputs)]
    if bias:
        operands.append(e.weight(f"{name}.bias", outputs))
    return e.op("Gemm", *operands, name=name.rsplit(".", 1)[-1], transB=1)


def rms_norm(e: Emitter, value: Value, name: str, width: int, epsilon: float) -> Value:
    """Scale the last axis [..., width] to unit root mean square, then by `<name>.weight`."""
    scale = e.weight(f"{name}.weight", width)
    label = name.rsplit(".", 1)[-1]
    return e.op("RMSNormalization", value, scale, name=label, axis=-1, epsilon=epsilon)
