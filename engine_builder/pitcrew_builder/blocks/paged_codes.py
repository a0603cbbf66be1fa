"""The functions of `blocks.paged` over pools of one-byte codes instead of numbers.

Codes have a step of 1. What a step is worth is no business of these functions (see
`quantize.cache`): all that is done to a cached element is to convert it. New tokens attend to each
other by the same codes that later steps will find, so how a text is cut into steps decides nothing.

int8 codes, old and new, are gathered, joined and converted. E4M3 can be computed everywhere and
gathered nowhere: neither ONNX's Gather nor TensorRT's takes it. Its pools hold bytes, which are
looked up in a table; new keys and values come as the numbers that their codes mean.

Conversion is a `Cast`, not a `DequantizeLinear`: TensorRT's parser names the latter after the
function's node, and refuses the second call for having the same name.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np

from pitcrew_builder.blocks.paged import SIDE_BY_SIDE
from pitcrew_builder.graph.body import given_ints, ints, node, values
from pitcrew_builder.graph.ir import Array, ElementType, Function, Node

_FLOAT, _INT32 = 1, 6
"""The values of ONNX's `TensorProto.DataType`."""

_OFFSET = 128
"""What turns a byte that was read as a signed number into its place in the table."""


def byte_values() -> Array:
    """What the bytes -128 to 127 mean as E4M3, float32 [256]; 0 where they are no number."""
    codes = np.arange(-_OFFSET, _OFFSET).astype(np.int8).view(ml_dtypes.float8_e4m3fn)
    numbers: Array = codes.astype(np.float32)
    return np.where(np.isnan(numbers), np.float32(0), numbers)


def code_name(name: str, kind: ElementType) -> str:
    """What the function called `name` is called over codes of `kind`."""
    return f"{_PREFIX[kind]}{name}"


def over_codes(function: Function, kind: ElementType) -> Function:
    """`function` over pools of codes; for FP8 with `byte_values` as a further, last input."""
    extra = values("byte_values") if kind is ElementType.FLOAT8 else ()
    return replace(
        function,
        name=code_name(function.name, kind),
        inputs=(*function.inputs, *extra),
        nodes=(*_READING[kind], *function.nodes[len(SIDE_BY_SIDE) :]),
    )


def _int8(one: str, all_of: str) -> tuple[Node, ...]:
    return (
        node("Gather", f"{one}_pool block_tables", f"{one}_pages", axis=0),
        node("Reshape", f"{one}_pages side_by_side", f"past_{all_of}"),
        node("Concat", f"past_{all_of} {all_of}", f"{one}_codes", axis=1),
        node("Cast", f"{one}_codes", f"all_{all_of}", to=_FLOAT),
    )


def _fp8(one: str, all_of: str) -> tuple[Node, ...]:
    return (
        node("Gather", f"{one}_pool block_tables", f"{one}_pages", axis=0),
        node("Reshape", f"{one}_pages side_by_side", f"{one}_bytes"),
        # The table is a vector, and a lookup of elements wants indices of the same rank.
        node("Shape", f"{one}_bytes", f"{one}_shape"),
        node("Reshape", f"{one}_bytes line", f"{one}_line"),
        node("Cast", f"{one}_line", f"{one}_signed", to=_INT32),
        node("Add", f"{one}_signed offset", f"{one}_places"),
        node("GatherElements", f"byte_values {one}_places", f"{one}_numbers", axis=0),
        # A block table without blocks makes a dimension of 0, which is meant.
        node("Reshape", f"{one}_numbers {one}_shape", f"past_{all_of}", allowzero=1),
        node("Concat", f"past_{all_of} {all_of}", f"all_{all_of}", axis=1),
    )


_SHAPE = given_ints("side_by_side", "context_shape")
_READING = {
    ElementType.INT8: (_SHAPE, *_int8("key", "keys"), *_int8("value", "values")),
    ElementType.FLOAT8: (
        _SHAPE,
        ints("line", -1),
        ints("wide_offset", _OFFSET),
        node("Cast", "wide_offset", "offset", to=_INT32),
        *_fp8("key", "keys"),
        *_fp8("value", "values"),
    ),
}
_PREFIX = {ElementType.INT8: "Int8", ElementType.FLOAT8: "Fp8"}
