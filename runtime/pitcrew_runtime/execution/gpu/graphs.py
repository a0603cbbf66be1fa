"""Keeps the CUDA graphs of the shapes that were run last: a policy over graphs of any kind."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from pitcrew_runtime.execution.gpu.shapes import Shape

G = TypeVar("G")

MOST = 256
"""Each holds two to six megabytes of the GPU, for a network of 16 layers."""


class GraphCache(Generic[G]):
    """At most `most` graphs; the one that was not used for longest makes room."""

    def __init__(self, drop: Callable[[G], None], most: int = MOST) -> None:
        self._drop = drop
        self._most = most
        self._graphs: OrderedDict[Shape, G] = OrderedDict()

    def get(self, shape: Shape) -> G | None:
        """The graph of a shape, if it is known."""
        graph = self._graphs.get(shape)
        if graph is not None:
            self._graphs.move_to_end(shape)
        return graph

    def put(self, shape: Shape, graph: G) -> None:
        """Keep the graph of a shape that is not known."""
        if len(self._graphs) == self._most:
            _, oldest = self._graphs.popitem(last=False)
            self._drop(oldest)
        self._graphs[shape] = graph

    def clear(self) -> None:
        """Keep none."""
        for graph in self._graphs.values():
            self._drop(graph)
        self._graphs.clear()
