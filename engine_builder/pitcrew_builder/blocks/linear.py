"""Linear maps and norms over rows [T, width], weights in the checkpoint's own [out, in] layout.

`Gemm` with `transB` takes that layout as it is, so serialization copies rows in order and never
transposes, joined projections are plain concatenations, and a tied LM head shares its bytes with
the embedding. ONNX Runtime packs the matrix once at load; TensorRT takes it as it stands.

A matrix is split over ranks by its outputs, which leaves every rank a part of the columns, or by
its inputs, which leaves partial sums that are reduced at once. A block that does the first and then
the second talks to the other ranks once (Shoeybi et al. 2019).
"""

from dataclasses import dataclass
from typing import TypeAlias

from pitcrew_builder.graph.collectives import all_reduce
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import Value


@dataclass(frozen=True, slots=True)
class Outputs:
    """This rank computes this range of the outputs."""

    part: range


@dataclass(frozen=True, slots=True)
class Inputs:
    """This rank has this range of the inputs; the group's sums give all outputs to everyone."""

    part: range


Split: TypeAlias = Outputs | Inputs


def linear(
    e: Emitter,
    rows: Value,
    name: str,
    inputs: int,
    outputs: int,
    *,
    bias: bool,
    split: Split | None = None,
) -> Value:
    """`rows` [T, inputs] times `<name>.weight` [outputs, inputs] transposed, plus `<name>.bias`.

    `inputs` and `outputs` are those of the whole matrix; `split` says which part is here.
    """
    label = name.rsplit(".", 1)[-1]
    if isinstance(split, Inputs) and len(split.part) < inputs:
        matrix = e.weight(f"{name}.weight", outputs, inputs, parts={1: split.part})
        partial = e.op("Gemm", rows, matrix, name=label, transB=1)
        total = all_reduce(e, partial, e.layout.tensor_group)
        return e.op("Add", total, e.weight(f"{name}.bias", outputs)) if bias else total
    parts = {0: split.part} if isinstance(split, Outputs) else {}
    operands = [rows, e.weight(f"{name}.weight", outputs, inputs, parts=parts)]
    if bias:
        operands.append(e.weight(f"{name}.bias", outputs, parts=parts))
    return e.op("Gemm", *operands, name=label, transB=1)


def rms_norm(e: Emitter, value: Value, name: str, width: int, epsilon: float) -> Value:
    """Scale the last axis [..., width] to unit root mean square, then by `<name>.weight`."""
    scale = e.weight(f"{name}.weight", width)
    label = name.rsplit(".", 1)[-1]
    return e.op("RMSNormalization", value, scale, name=label, axis=-1, epsilon=epsilon)
