"""Kernels as ahead-of-time plugins of TensorRT: their PTX is in the plan, and no Python runs when it does.

What a kernel wants to know is read from its tensors' shapes: with today's numpy and Python the
bindings of TensorRT 10.15 read no kind of attribute, and of a text the first letter only.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from types import GenericAlias
from typing import Any, TypeAlias

from pitcrew_builder.errors import CompilationFailed
from pitcrew_builder.graph.ir import Function
from pitcrew_builder.targets.trt.library import Native

Size: TypeAlias = Any
"""An int, or an expression over sizes that are known when a plan runs."""

NAMESPACE = "pitcrew"
Tensors: TypeAlias = Sequence[Native]
"""TensorRT's descriptions of a call's inputs."""


@dataclass(frozen=True, slots=True)
class Baked:
    """One kernel and its launch; sizes are ints or expressions over the tensors' shapes."""

    entry: str
    code: bytes
    grid: Native
    threads: int
    sizes: tuple[Native, ...]
    """32-bit integers that it takes between its inputs and its output."""


def register(
    function: Function, describe: Callable[[Tensors], Native], bake: Callable[[Tensors], Baked]
) -> None:
    """Let nodes that call `function` and name its plugin be computed by a kernel of one output.

    `describe` gives the output's description. Needs `tensorrt`.
    """
    trtp = importlib.import_module("tensorrt.plugin")
    name = f"{NAMESPACE}::{function.name}"

    def described(*tensors: Native) -> Native:
        return describe(tensors)

    def implemented(*arguments: Native) -> Native:
        *tensors, _outputs, _tactic = arguments
        baked = bake(tensors)
        native = trtp.KernelLaunchParams()
        native.grid_x, native.block_x = baked.grid, baked.threads
        extra = trtp.SymIntExprs(len(baked.sizes))
        for index, size in enumerate(baked.sizes):
            extra[index] = trtp.SymInt32(size)
        return baked.entry, baked.code, native, extra

    # The bindings look at the names and kinds of all parameters.
    inputs = [_parameter(each, trtp.TensorDesc) for each in function.inputs]
    vars(described)["__signature__"] = Signature(inputs, return_annotation=trtp.TensorDesc)
    others = [
        _parameter("outputs", GenericAlias(tuple, (trtp.TensorDesc,))),
        _parameter("tactic", int),
    ]
    code = str | bytes
    result = GenericAlias(tuple, (code, code, trtp.KernelLaunchParams, trtp.SymIntExprs))
    vars(implemented)["__signature__"] = Signature([*inputs, *others], return_annotation=result)
    trtp.register(name)(described)
    trtp.aot_impl(name)(implemented)


def is_bfloat16(tensor: Native) -> bool:
    """Whether it is that or float16. Raises `CompilationFailed` for other types."""
    trt = importlib.import_module("tensorrt")
    if tensor.dtype not in (trt.float16, trt.bfloat16):
        raise CompilationFailed(f"a kernel for half precision was given {tensor.dtype}")
    return bool(tensor.dtype == trt.bfloat16)


def static(tensor: Native) -> tuple[int, ...]:
    """The shape of a tensor whose sizes are all known."""
    return tuple(size.constant_value() for size in tensor.shape_expr)


def _parameter(name: str, annotation: object) -> Parameter:
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
