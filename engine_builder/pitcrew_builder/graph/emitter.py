"""The pen that blocks draw with: one call makes one node and returns its output.

Names come from the nested scopes and the operator, so equal code gives equal names on every run.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from pitcrew_builder.graph.ir import (
    Array,
    Attribute,
    ElementType,
    Function,
    Graph,
    Literal,
    Node,
    Port,
    Value,
    Weight,
)
from pitcrew_builder.graph.recipe import Source, TensorRef, cut
from pitcrew_builder.layout import SOLE, Layout

ABSENT = Value("")
"""Leaves an optional input out."""

Sources: TypeAlias = Callable[[TensorRef], Source]
"""From the tensor that a block names to where its elements lie in the checkpoint."""


def as_they_are(tensor: TensorRef) -> Source:
    """The checkpoint holds what the blocks name."""
    return tensor


_WHOLE: Mapping[int, range] = {}


class Emitter:
    """Collects the parts of one graph."""

    def __init__(self, name: str, layout: Layout = SOLE, sources: Sources = as_they_are) -> None:
        self.layout = layout
        self._sources = sources
        self._name = name
        self._scopes: list[str] = []
        self._used: Counter[str] = Counter()
        self._inputs: list[Port] = []
        self._outputs: list[Port] = []
        self._nodes: list[Node] = []
        self._weights: dict[str, Weight] = {}
        self._literals: dict[tuple[str, tuple[int, ...], bytes], Literal] = {}
        self._functions: dict[tuple[str, str], Function] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of all nodes that are made inside."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def input(self, name: str, kind: ElementType, *shape: int | str) -> Value:
        """Declare a graph input."""
        self._inputs.append(Port(Value(name), kind, shape))
        return Value(name)

    def output(self, value: Value, name: str, kind: ElementType, *shape: int | str) -> None:
        """Declare `value` a graph output called `name`."""
        self._nodes.append(Node("Identity", name, (value,), (Value(name),)))
        self._outputs.append(Port(Value(name), kind, shape))

    def op(self, op: str, *inputs: Value, name: str = "", **attributes: Attribute) -> Value:
        """Add a node of one output and return that output."""
        return self.ops(op, *inputs, name=name, outputs=1, **attributes)[0]

    def ops(
        self, op: str, *inputs: Value, outputs: int, name: str = "", **attributes: Attribute
    ) -> tuple[Value, ...]:
        """Add a node of several outputs and return them. `op` may hold a domain: `llm::Name`."""
        domain, _, bare = op.rpartition("::")
        path = self._unique("/".join([*self._scopes, name or bare]))
        names = tuple(Value(path if outputs == 1 else f"{path}.{i}") for i in range(outputs))
        self._nodes.append(Node(bare, path, inputs, names, tuple(attributes.items()), domain))
        return names

    def weight(self, name: str, *shape: int, parts: Mapping[int, range] = _WHOLE) -> Value:
        """Use a checkpoint tensor of that shape as a constant. Using one twice shares its bytes.

        `parts` says which range of an axis this rank holds; of the others it holds all.
        """
        return self._constant(Weight(Value(name), (self._part(name, shape, parts),)))

    def stack(
        self, name: str, entries: Sequence[str], *shape: int, parts: Mapping[int, range] = _WHOLE
    ) -> Value:
        """Use tensors of one shape as a constant [entries, *shape]; `parts` as in `weight`."""
        sources = tuple(self._part(entry, shape, parts) for entry in entries)
        return self._constant(Weight(Value(name), sources, stacked=True))

    def _part(self, name: str, shape: tuple[int, ...], parts: Mapping[int, range]) -> Source:
        return cut(self._sources(TensorRef(name, shape)), parts)

    def _constant(self, weight: Weight) -> Value:
        name = weight.name
        assert self._weights.setdefault(name, weight) == weight, f"two parts of {name}"
        return name

    def literal(self, array: Array, name: str = "") -> Value:
        """Use a computed array as a constant. Equal arrays are one constant."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._literals:
            label = name or f"literal.{len(self._literals)}"
            self._literals[key] = Literal(Value(label), array)
        return self._literals[key].name

    def ints(self, *values: int) -> Value:
        """A constant int64 vector, such as a shape."""
        return self.literal(_array(values, ElementType.INT64))

    def int(self, value: int) -> Value:
        """A constant int64 scalar."""
        return self.literal(_array(value, ElementType.INT64))

    def float(self, value: float) -> Value:
        """A constant float32 scalar."""
        return self.literal(_array(value, ElementType.FLOAT32))

    def function(self, function: Function) -> str:
        """Make a model-local function callable and return the `op` to call it by."""
        self._functions[function.domain, function.name] = function
        return f"{function.domain}::{function.name}"

    def graph(self) -> Graph:
        """What was drawn."""
        return Graph(
            name=self._name,
            inputs=tuple(self._inputs),
            outputs=tuple(self._outputs),
            nodes=tuple(self._nodes),
            weights=tuple(self._weights.values()),
            literals=tuple(self._literals.values()),
            functions=tuple(self._functions.values()),
        )

    def _unique(self, name: str) -> str:
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name}.{self._used[name]}"


def _array(values: float | tuple[int, ...], kind: ElementType) -> Array:
    import numpy as np

    return np.array(values, kind.dtype)
