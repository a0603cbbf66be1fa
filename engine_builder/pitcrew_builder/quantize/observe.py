"""Statistics of the activations that reach each matrix, over calibration text.

The unquantized graph gets its products' inputs as further outputs and runs in ONNX Runtime. Only
sums are kept. Second moments take inputs squared numbers each, so matrices whose moments do not fit
a budget together are observed in several runs over the text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pitcrew_builder import serialize
from pitcrew_builder.graph.ir import ElementType, Graph, Port, Value
from pitcrew_builder.graph.proto import to_proto
from pitcrew_builder.manifest import ModelFacts
from pitcrew_builder.network import Executable
from pitcrew_builder.pools import Pools
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
            "positions": np.arange(count, dtype=np.int64)[None],
            "block_tables": np.zeros((1, 0), np.int64),
            "context_lengths": np.zeros(1, np.int64),
            "logit_indices": np.zeros((1, 1), np.int64),
            **Pools(facts, np.dtype(np.float32), 1, self.page).arrays,
        }


def observe(
    calibration: Calibration,
    sites: Sequence[Site],
    *,
    moments: bool,
    advance: Callable[[float], None],
) -> Iterator[tuple[Site, Observation]]:
    """Each site with what reaches it. Sites of one group come after one run over the text."""
    groups = _groups(sites) if moments else [list(sites)]
    for index, group in enumerate(groups):
        values = {site.rows: site.inputs for site in group}
        found = {v: Observation.empty(width, moments=moments) for v, width in values.items()}
        network = _tapped(calibration, list(values), index)
        for number, text in enumerate(calibration.texts):
            outputs = network.run(calibration.inputs(text))
            for value, observation in found.items():
                observation.add(outputs[value])
            advance((index + (number + 1) / len(calibration.texts)) / len(groups))
        yield from ((site, found[site.rows]) for site in group)


def _groups(sites: Sequence[Site]) -> list[list[Site]]:
    groups: list[list[Site]] = []
    room = 0
    for site in sites:
        size = site.inputs**2 * 4
        if size > room:
            groups.append([])
            room = max(BUDGET, size)
        groups[-1].append(site)
        room -= size
    return groups


def _tapped(calibration: Calibration, values: list[Value], index: int) -> Executable:
    graph = calibration.graph
    ports = tuple(Port(value, ElementType.FLOAT32, None) for value in values)
    proto = to_proto(replace(graph, outputs=ports), serialize.place(graph), DATA, {})
    path = calibration.reference / f"observed-{index}.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return Executable(path)
