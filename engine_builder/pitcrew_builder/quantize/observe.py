"""Statistics of the activations that reach each matrix, over calibration text.

The unquantized graph gets its products' inputs as further outputs and runs in ONNX Runtime. Only
sums are kept. Second moments take inputs squared numbers each, so matrices whose moments do not fit
a budget together are observed in several runs over the text. An expert of a mixture is observed on
the tokens that are routed to it; what its down projection reads comes out of the opened function.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pitcrew_builder import serialize
from pitcrew_builder.blocks.moe import INNER, MATRICES, ROUTING
from pitcrew_builder.graph.inline import inline, inner_value
from pitcrew_builder.graph.ir import ElementType, Graph, Node, Port, Value
from pitcrew_builder.graph.proto import to_proto
from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.network import Executable
from pitcrew_builder.pools import Pools
from pitcrew_builder.positions import first_positions
from pitcrew_builder.quantize.grid import Floats
from pitcrew_builder.quantize.sites import Site
from pitcrew_builder.targets.onnx_files import DATA

BUDGET = 1 << 30
"""Bytes of second moments held at once."""


@dataclass(slots=True)
class Observation:
    """Sums over rows x [inputs]."""

    count: int
    reach: float
    """max |x|."""
    total: npt.NDArray[np.float64]
    """sum |x|, [inputs]."""
    products: Floats | None
    """sum x x^T, [inputs, inputs]; None where nobody asked."""

    @classmethod
    def empty(cls, inputs: int, *, moments: bool) -> "Observation":
        """Nothing seen yet."""
        products = np.zeros((inputs, inputs), np.float32) if moments else None
        return cls(0, 0.0, np.zeros(inputs), products)

    def add(self, rows: Floats) -> None:
        """Count `rows` [n, inputs]."""
        magnitudes = np.abs(rows)
        self.count += len(rows)
        self.reach = max(self.reach, float(magnitudes.max()))
        self.total += magnitudes.sum(axis=0, dtype=np.float64)
        if self.products is not None:
            self.products += rows.T @ rows

    @property
    def magnitude(self) -> Floats:
        """E[|x|], [inputs]."""
        return (self.total / self.count).astype(np.float32)

    @property
    def moment(self) -> Floats:
        """E[x x^T], [inputs, inputs]."""
        assert self.products is not None, "asked for at the start"
        return self.products / np.float32(self.count)


@dataclass(frozen=True, slots=True)
class Calibration:
    """An unquantized graph that lies as `reference`/model.onnx, and the text to run it on."""

    graph: Graph
    reference: Path
    facts: ModelFacts
    page: int
    texts: Sequence[list[int]]

    def inputs(self, text: list[int]) -> dict[str, npt.NDArray[Any]]:
        """The graph's inputs for one text, computed at once and without a cache."""
        facts, count = self.facts, len(text)
        return {
            "input_ids": np.array([text], dtype=np.int64),
            "positions": (first_positions(facts, np.array([count])) + np.arange(count))[None],
            "block_tables": np.zeros((1, 0), np.int64),
            "context_lengths": np.zeros(1, np.int64),
            "logit_indices": np.zeros((1, 1), np.int64),
            **Pools(facts, np.dtype(np.float32), 1, self.page).arrays,
        }


Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]


def observe(
    calibration: Calibration,
    sites: Sequence[Site],
    *,
    moments: bool,
    advance: Callable[[float], None],
) -> Iterator[tuple[Site, tuple[Observation, ...]]]:
    """Each site with what reaches it, or each of its experts. A group's come after one run."""
    groups = _groups(sites) if moments else [list(sites)]
    for index, group in enumerate(groups):
        taps = {site.weight.name: _tap(site) for site in group}
        # Sites of the same rows share what was seen of them.
        found = {
            taps[site.weight.name]: tuple(
                Observation.empty(site.inputs, moments=moments) for _ in range(site.experts)
            )
            for site in group
        }
        network = _tapped(calibration, found, index)
        for number, text in enumerate(calibration.texts):
            outputs = network.run(calibration.inputs(text))
            for tap, observations in found.items():
                tap.add(outputs, observations)
            advance((index + (number + 1) / len(calibration.texts)) / len(groups))
        yield from ((site, found[taps[site.weight.name]]) for site in group)


@dataclass(frozen=True, slots=True)
class Tap:
    """Where the activations of a matrix, or of a stack, are found."""

    rows: Value
    """[T, inputs]; of a down projection, after `inside` is opened, [experts, inputs, T]."""
    routing: Value | None = None
    """[T, experts], of a stack."""
    inside: Node | None = None
    """The mixture that the rows are inside of."""

    def add(self, outputs: Tensors, observations: Sequence[Observation]) -> None:
        """Count one run's activations."""
        rows = outputs[self.rows]
        if self.routing is None:
            observations[0].add(rows)
            return
        routing = outputs[self.routing]
        for expert, observation in enumerate(observations):
            own = np.flatnonzero(routing[:, expert])
            if len(own):
                observation.add(rows[own] if self.inside is None else rows[expert].T[own])


def _tap(site: Site) -> Tap:
    if not site.weight.stacked:
        return Tap(site.rows)
    routing = site.node.inputs[ROUTING]
    if site.operand != MATRICES[-1]:
        return Tap(site.rows, routing)
    return Tap(inner_value(site.node, INNER), routing, site.node)


def _groups(sites: Sequence[Site]) -> list[list[Site]]:
    groups: list[list[Site]] = []
    room = 0
    for site in sites:
        size = site.experts * site.inputs**2 * 4
        if size > room:
            groups.append([])
            room = max(BUDGET, size)
        groups[-1].append(site)
        room -= size
    return groups


def _tapped(calibration: Calibration, taps: Iterable[Tap], index: int) -> Executable:
    opened = {tap.inside.name for tap in taps if tap.inside is not None}
    graph = inline(calibration.graph, opened)
    values = {value for tap in taps for value in (tap.rows, tap.routing) if value is not None}
    ports = tuple(Port(value, ElementType.FLOAT32, None) for value in sorted(values))
    proto = to_proto(replace(graph, outputs=ports), serialize.place(graph), DATA, {})
    path = calibration.reference / f"observed-{index}.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return Executable(path)
