"""How a checkpoint that comes quantized stores the matrices of its layers, in one form for all writers.

What the form cannot express is refused, with the list of what is known.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from pitcrew_builder.errors import UnknownArchitecture
from pitcrew_builder.graph.recipe import Packing

KNOWN = (
    "awq (GEMM, 4 bits), gptq (4 or 8 bits), fp8 (whole tensors or tiles), fbgemm_fp8, "
    "compressed-tensors (float-quantized fp8; pack-quantized with 4 or 8 bits), modelopt (FP8, "
    "FP8_PER_CHANNEL_PER_TOKEN)"
)


@dataclass(frozen=True, slots=True)
class Integers:
    """Weights are integer codes."""

    packing: Packing
    bits: int
    group: int | None
    """Inputs that share a scale; None: all."""
    zeros: bool
    """Whether groups may have a zero point of their own."""
    ordered: bool = False
    """Whether groups gather inputs from anywhere (GPTQ's act-order)."""


@dataclass(frozen=True, slots=True)
class Floats8:
    """Weights are E4M3 numbers."""

    block: tuple[int, int] | None
    """Outputs and inputs of a tile that shares a scale; None: a tensor or an output does."""
    rounds_inputs: bool
    """Whether activations have scales in the checkpoint."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the matrices of the layers are stored."""

    method: str
    """The writer's word for it, such as `gptq`."""
    form: Integers | Floats8
    excluded: tuple[str, ...] = ()
    """Modules that stayed as they were: names, parts of names, or patterns behind `re:`."""

    def covers(self, module: str) -> bool:
        """Whether the config says that a linear map is quantized; tensors may know better."""
        return not any(_names(pattern, module) for pattern in self.excluded)


def require(where: str, field: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that is not one of those that are read."""
    if value not in allowed:
        refuse(where, field, value)


def refuse(where: str, field: str, value: object) -> NoReturn:
    """Raise `UnknownArchitecture`, naming file, field, value and what is known."""
    raise UnknownArchitecture(
        f"{where}: quantization_config.{field} is {value!r}, which is not read; known are: {KNOWN}; "
        f"take a checkpoint in one of these, or the unquantized one"
    )


def _names(pattern: str, module: str) -> bool:
    if pattern.startswith("re:"):
        return re.fullmatch(pattern.removeprefix("re:"), module) is not None
    return module == pattern or pattern in module.split(".") or module.startswith(f"{pattern}.")
