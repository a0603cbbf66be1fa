"""The graph as plain data: nodes, weights, literals and model-local functions.

Everything is frozen and compares by value, so passes are functions from `Graph` to `Graph`. Weights
are recipes (which checkpoint tensors, in which order), never bytes. Knows neither ONNX protos nor
files.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, TypeAlias

import numpy as np
import numpy.typing as npt

Value = NewType("Value", str)
"""The name of a tensor that flows between nodes."""

OPSET = 23
"""The version of the standard operators that graphs are made of."""

Dim: TypeAlias = int | str
Array: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int64]


class ElementType(StrEnum):
    """The types that tensors of our graphs have."""

    FLOAT32 = "float32"
    INT64 = "int64"


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
class TensorRef:
    """A checkpoint tensor that a weight is made of, with the shape that the config implies."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant whose bytes come from the checkpoint: its parts, one after the other on axis 0."""

    name: Value
    parts: tuple[TensorRef, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the joined parts."""
        rows = sum(part.shape[0] for part in self.parts)
        return (rows, *self.parts[0].shape[1:])

    @property
    def elements(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


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
    shape: tuple[Dim, ...]


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
