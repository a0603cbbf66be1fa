"""What of a rank's network becomes a plan: all of it, or its segments where ranks exchange values.

TensorRT 10 has no operator by which GPUs exchange values, and a plan cannot wait for one outside of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.graph.ir import Graph, Port, Value
from pitcrew_builder.graph.segments import Segment, segments_with_own_integers
from pitcrew_builder.graph.types import element_types, port_type
from pitcrew_builder.manifest import PassedValue
from pitcrew_builder.targets.trt.shapes import shapes_of


@dataclass(frozen=True, slots=True)
class Parts:
    """A rank's network as a compiler is given it; all ports have shapes."""

    segments: tuple[Segment, ...]
    passed: tuple[PassedValue, ...] = ()
    """What one segment makes and another, or another rank, is given."""

    @property
    def are_several(self) -> bool:
        """Whether ranks exchange values."""
        return len(self.segments) > 1


def whole(graph: Graph) -> Parts:
    """One plan."""
    return Parts((Segment(graph, ()),))


def parts(graph: Graph, page: int) -> Parts:
    """A plan for each segment of a graph over pages of `page` tokens."""
    cut = segments_with_own_integers(graph)
    if len(cut) == 1:
        return whole(graph)
    known = {port.name for port in (*graph.inputs, *graph.outputs)}
    names = [name for name in dict.fromkeys(_crossing(cut)) if name not in known]
    types, shapes = element_types(graph), shapes_of(graph, names, page)
    ports = {name: Port(name, port_type(types, name), shapes[name]) for name in names}
    passed = tuple(
        PassedValue(name=port.name, type=port.type.value, shape=port.shape or ())
        for port in ports.values()
    )
    return Parts(tuple(_shaped(segment, ports) for segment in cut), passed)


def _crossing(cut: Sequence[Segment]) -> Iterator[Value]:
    for segment in cut:
        yield from (port.name for port in segment.graph.inputs)
        for exchange in segment.exchanges:
            yield from (Value(exchange.value), Value(exchange.result))


def _shaped(segment: Segment, ports: dict[Value, Port]) -> Segment:
    def shaped(given: Sequence[Port]) -> tuple[Port, ...]:
        return tuple(ports.get(port.name, port) for port in given)

    graph = segment.graph
    made = replace(graph, inputs=shaped(graph.inputs), outputs=shaped(graph.outputs))
    return replace(segment, graph=made)
