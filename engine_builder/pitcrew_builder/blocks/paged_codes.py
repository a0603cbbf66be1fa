"""The functions of `blocks.paged` over pools of one-byte codes instead of numbers.

Keys and values come, and lie in the pools, as codes whose step is 1. What a step is worth is no
business of these functions (see `quantize.cache`): all that is done to a cached element is to
convert it. New tokens attend to each other by the same codes that later steps will find, so how a
text is cut into steps decides nothing.

int8 codes are gathered, joined and converted. E4M3 can be computed everywhere and gathered nowhere:
neither ONNX's Gather nor TensorRT's takes it. Its pools hold bytes, which are looked up in a table.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np

from pitcrew_builder.blocks.paged import SIDE_BY_SIDE
from pitcrew_builder.graph.body import given_ints, ints, node, values
from pitcrew_builder.graph.ir import Array, ElementType, Function, Node

_INT32 = 6
"""The value of ONNX's `TensorProto.DataType`."""

OFFSET = 128
"""What turns a byte that was read as a signed number into its place in the table."""


def byte_values() -> Array:
    """What the bytes -128 to 127 mean as E4M3, float32 [256]; 0 where they are no number."""
    codes = np.arange(-OFFSET, OFFSET).astype(np.int8).view(ml_dtypes.float8_e4m3fn)
    numbers: Array = codes.astype(np.float32)
    return np.where(np.isnan(numbers), np.float32(0), numbers)


def code_name(name: str, kind: ElementType) -> str:
    """What the function called `name` is called over codes of `kind`."""
    return f"{_PREFIX[kind]}{name}"


def over_codes(function: Function, kind: ElementType) -> Function:
    """`function` with keys, values and pools of codes.

    It has further inputs at its end: a float 1; for FP8 also `OFFSET` as a float, and
    `byte_values`.
    """
    reading, extra = _READING[kind], _EXTRA[kind]
    return replace(
        function,
        name=code_name(function.name, kind),
        inputs=(*function.inputs, *values(extra)),
        nodes=(*reading, *function.nodes[len(SIDE_BY_SIDE) :]),
    )


def _int8(one: str, all_of: str) -> tuple[Node, ...]:
    return (
        node("Gather", f"{one}_pool block_tables", f"{one}_pages", axis=0),
        node("Reshape", f"{one}_pages side_by_side", f"past_{all_of}"),
        node("Concat", f"past_{all_of} {all_of}", f"{one}_codes", axis=1),
        node("DequantizeLinear", f"{one}_codes unit", f"all_{all_of}"),
    )


def _fp8(one: str, all_of: str) -> tuple[Node, ...]:
    return (
        node("Gather", f"{one}_pool block_tables", f"{one}_pages", axis=0),
        node("Reshape", f"{one}_pages side_by_side", f"{one}_bytes"),
        # The table is a vector, and a lookup of elements wants indices of the same rank.
        node("Shape", f"{one}_bytes", f"{one}_shape"),
        node("Reshape", f"{one}_bytes flat", f"{one}_row"),
        node("DequantizeLinear", f"{one}_row unit", f"{one}_signed"),
        node("Add", f"{one}_signed offset", f"{one}_places"),
        node("Cast", f"{one}_places", f"{one}_indices", to=_INT32),
        node("GatherElements", f"byte_values {one}_indices", f"{one}_numbers", axis=0),
        # A table of no blocks makes a dimension of 0, which is meant.
        node("Reshape", f"{one}_numbers {one}_shape", f"past_{all_of}", allowzero=1),
        node("DequantizeLinear", f"{all_of} unit", f"new_{all_of}"),
        node("Concat", f"past_{all_of} new_{all_of}", f"all_{all_of}", axis=1),
    )


_SHAPE = given_ints("side_by_side", "context_shape")
_READING = {
    ElementType.INT8: (_SHAPE, *_int8("key", "keys"), *_int8("value", "values")),
    ElementType.FLOAT8: (
        _SHAPE,
        ints("flat", -1),
        *_fp8("key", "keys"),
        *_fp8("value", "values"),
    ),
}
_EXTRA = {ElementType.INT8: "unit", ElementType.FLOAT8: "unit offset byte_values"}
_PREFIX = {ElementType.INT8: "Int8", ElementType.FLOAT8: "Fp8"}
