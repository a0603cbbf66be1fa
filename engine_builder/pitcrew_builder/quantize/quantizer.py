"""Quantization from end to end: observe, encode matrix by matrix to a scratch file, rewrite."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pitcrew_builder.checkpoint.assemble import Assembler
from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.graph.ir import ElementType, Value, Weight
from pitcrew_builder.graph.recipe import reads_whole
from pitcrew_builder.manifest import QuantizationRecipe, QuantizedMatrix
from pitcrew_builder.quantize import methods
from pitcrew_builder.quantize.grid import Codes, Floats, Grid, packed
from pitcrew_builder.quantize.observe import Calibration, Observation, observe
from pitcrew_builder.quantize.rewrite import Narrow, foldable_norm, rewrite
from pitcrew_builder.quantize.scratch import Scratch
from pitcrew_builder.quantize.sites import Site, kept, sites
from pitcrew_builder.spec import WeightFormat
from pitcrew_builder.targets.target import Network

RUN = 1 << 22
"""Elements of a matrix that are read and encoded at once."""

_E4M3_LIMIT = 448.0


@dataclass(frozen=True, slots=True)
class Quantized:
    """A network with narrow matrices, and what was done to each."""

    network: Network
    matrices: tuple[QuantizedMatrix, ...]
    kept: tuple[str, ...]


def quantize(
    network: Network,
    recipe: QuantizationRecipe,
    calibration: Calibration,
    scratch: Scratch,
    advance: Callable[[float], None],
) -> Quantized:
    """Make the layers' matrices narrow. Raises `InvalidSpec` where none can be."""
    graph = network.graph
    chosen = tuple(s for s in sites(graph) if methods.grid_for(recipe, s.inputs) is not None)
    if not chosen:
        raise InvalidSpec(
            f"quantization.weights is {recipe.weights}, and no matrix of this network can be made "
            f"so; leave quantization out"
        )
    with WeightReader() as reader:
        work = _Work(network, recipe, scratch, Assembler(network.tensors, reader))
        for site, seen in _observed(chosen, recipe, calibration, advance):
            work.encode(site, seen)
    tensors: Mapping[str, TensorInfo] = {**network.tensors, **scratch.tensors}
    narrow = replace(network, graph=rewrite(graph, work.narrow, work.norms), tensors=tensors)
    return Quantized(narrow, tuple(work.matrices), kept(graph, chosen))


def _observed(
    chosen: Sequence[Site],
    recipe: QuantizationRecipe,
    calibration: Calibration,
    advance: Callable[[float], None],
) -> Iterator[tuple[Site, Observation | None]]:
    if recipe.calibrates_weights:
        moments = methods.needs_moments(recipe)
        yield from observe(calibration, chosen, moments=moments, advance=advance)
        return
    for index, site in enumerate(chosen):
        yield site, None
        advance((index + 1) / len(chosen))


class _Work:
    """What has been encoded so far."""

    def __init__(
        self, network: Network, recipe: QuantizationRecipe, scratch: Scratch, read: Assembler
    ) -> None:
        self._network = network
        self._recipe = recipe
        self._scratch = scratch
        self._read = read
        self.narrow: list[Narrow] = []
        self.norms: dict[Value, Weight] = {}
        self.matrices: list[QuantizedMatrix] = []

    def encode(self, site: Site, seen: Observation | None) -> None:
        """Encode one site's matrix and write it down."""
        grid = methods.grid_for(self._recipe, site.inputs)
        assert grid is not None, "sites without a grid were left out"
        plan = methods.plan(self._recipe.method, grid, lambda: self._rows(site.weight), seen)
        codes, scales, error = _encode(self._rows(site.weight), plan, grid)
        narrow = self._write(site, grid, codes, scales)
        if plan.multipliers is not None:
            narrow = self._undo(narrow, plan.multipliers)
        if self._recipe.weights is WeightFormat.FP8 and seen is not None:
            narrow = replace(narrow, input_scale=max(seen.reach, 1e-6) / _E4M3_LIMIT)
        self.narrow.append(narrow)
        self.matrices.append(_described(narrow, grid, error, seen))

    def _rows(self, weight: Weight) -> Iterator[Floats]:
        for part in weight.parts:
            count, width = part.shape
            step = count if reads_whole(part) else max(1, RUN // width)
            for start in range(0, count, step):
                yield self._read.rows(part, start, min(start + step, count))

    def _write(self, site: Site, grid: Grid, codes: Codes, scales: Floats) -> Narrow:
        name = site.weight.name
        transposed = grid.type is not ElementType.FLOAT8
        if transposed:
            codes, scales = codes.T, scales.T
        blocked = grid.block < site.inputs
        return Narrow(
            site,
            self._scratch.raw(f"{name}/codes", grid.type, codes.shape, packed(codes, grid.type)),
            self._scratch.floats(f"{name}/scales", scales if blocked else scales.reshape(-1)),
            grid.block if blocked else 0,
            transposed,
        )

    def _undo(self, narrow: Narrow, multipliers: Floats) -> Narrow:
        norm = foldable_norm(self._network.graph, narrow.site)
        if norm is None:
            return replace(narrow, divisors=multipliers)
        weight = next(weight for weight in self._network.graph.weights if weight.name == norm)
        values = np.concatenate([self._read.rows(p, 0, p.shape[0]) for p in weight.parts])
        self.norms[norm] = self._scratch.floats(f"{norm}/scaled", values / multipliers)
        return narrow


def _encode(rows: Iterator[Floats], plan: methods.Plan, grid: Grid) -> tuple[Codes, Floats, float]:
    """Codes and scales of all rows, and the error relative to the matrix."""
    codes, scales, lost, whole = [], [], 0.0, 0.0
    multipliers = np.float32(1) if plan.multipliers is None else plan.multipliers
    for run in rows:
        found, steps = plan.encode(run)
        codes.append(found)
        scales.append(steps)
        lost += _square(grid.decode(found, steps) / multipliers - run)
        whole += _square(run)
    return np.concatenate(codes), np.concatenate(scales), float(np.sqrt(lost / max(whole, 1e-30)))


def _square(matrix: Floats) -> float:
    return float(np.square(matrix).sum(dtype=np.float64))


def _described(
    narrow: Narrow, grid: Grid, error: float, seen: Observation | None
) -> QuantizedMatrix:
    return QuantizedMatrix(
        name=narrow.site.weight.name,
        block=grid.block,
        bytes_before=narrow.site.weight.nbytes,
        bytes_after=narrow.codes.nbytes + narrow.scales.nbytes,
        relative_error=error,
        input_range=seen.reach if seen is not None else None,
    )
