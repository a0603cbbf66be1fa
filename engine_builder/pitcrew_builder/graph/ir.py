"""The graph as plain data: nodes, weights, literals and model-local functions.

Everything is frozen and compares by value, so passes are functions from `Graph` to `Graph`. Weights
are recipes (`graph.recipe`), never bytes. Knows neither ONNX protos nor
files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType, TypeAlias

from pitcrew_builder.graph.recipe import Source, TensorRef, tensors_of

if TYPE_CHECKING:
    # Slow to import, and not needed to tell one family from another.
    import numpy as np
    import numpy.typing as npt

Value = NewType("Value", str)
"""The name of a tensor that flows between nodes."""

OPSET = 23
"""The version of the standard operators that graphs are made of."""

Dim: TypeAlias = int | str
Array: TypeAlias = "npt.NDArray[Any]"
"""A constant's elements; its dtype is that of an `ElementType`."""


class ElementType(StrEnum):
    """The types that tensors of our graphs have."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT64 = "int64"
    FLOAT8 = "float8_e4m3fn"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The same type in NumPy."""
        import ml_dtypes
        import numpy as np

        return np.dtype(getattr(ml_dtypes, self.value, self.value))

    @property
    def bits(self) -> int:
        """Bits of a stored element; int4 lies packed, two in a byte."""
        return 4 if self is ElementType.INT4 else 8 * self.dtype.itemsize

    @property
    def is_encoded(self) -> bool:
        """Whether elements mean something only together with a scale."""
        return self in (ElementType.FLOAT8, ElementType.INT8, ElementType.INT4)


class AttributeKind(StrEnum):
    """The type of an attribute that a function passes on to its body."""

    INT = "int"
    FLOAT = "float"
    INTS = "ints"


@dataclass(frozen=True, slots=True)
class AttributeRef:
    """Stands in a function's body for the caller's attribute of that name."""

    name: str
    kind: AttributeKind


Attribute: TypeAlias = int | float | str | tuple[int, ...] | AttributeRef


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call. An empty input name leaves an optional input out."""

    op: str
    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()
    domain: str = ""

    def attribute(self, name: str) -> Attribute | None:
        """The value of an attribute, None where it is not set."""
        return dict(self.attributes).get(name)


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant whose bytes come from the checkpoint: its parts, one after the other on axis 0."""

    name: Value
    parts: tuple[Source, ...]
    stacked: bool = False
    """The parts are entries of a new first axis, such as one matrix for each expert."""

    type: ElementType = ElementType.FLOAT32
    """How the engine stores it, whatever the checkpoint's own type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the joined or stacked parts."""
        if self.stacked:
            return (len(self.parts), *self.parts[0].shape)
        rows = sum(part.shape[0] for part in self.parts)
        return (rows, *self.parts[0].shape[1:])

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes as stored; an odd last int4 takes a whole byte."""
        return (self.elements * self.type.bits + 7) // 8

    @property
    def tensors(self) -> tuple[TensorRef, ...]:
        """The checkpoint tensors that its parts read."""
        return tuple(ref for part in self.parts for ref in tensors_of(part))


Kinds: TypeAlias = Mapping[Value, ElementType]
"""Weight -> what it is stored as; those that are missing are stored as the graph has them."""


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A constant that the graph's author computed, such as a table or a shape."""

    name: Value
    array: Array


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the whole graph; a string dimension is dynamic."""

    name: Value
    type: ElementType
    shape: tuple[Dim, ...] | None
    """None: not known."""


@dataclass(frozen=True, slots=True)
class Function:
    """A model-local function: an operator with a body of standard operators."""

    domain: str
    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: tuple[str, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole network. Nodes are in topological order."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    weights: tuple[Weight, ...]
    literals: tuple[Literal, ...]
    functions: tuple[Function, ...] = ()
