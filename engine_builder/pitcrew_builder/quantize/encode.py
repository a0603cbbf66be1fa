"""One site's codes by a method: a matrix in runs of rows, or a stack expert by expert."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pitcrew_builder.checkpoint.assemble import Assembler
from pitcrew_builder.checkpoint.coded import Coded, joined
from pitcrew_builder.graph.parts import layer_of
from pitcrew_builder.graph.recipe import Source, reads_whole
from pitcrew_builder.manifest import QuantizationRecipe
from pitcrew_builder.quantize import methods
from pitcrew_builder.quantize.grid import Codes, Floats, Grid, grid_for
from pitcrew_builder.quantize.observe import Observation
from pitcrew_builder.quantize.sites import Site
from pitcrew_builder.spec import QuantizationMethod, WeightFormat

RUN = 1 << 22
"""Elements of a matrix that are read and encoded at once."""

FEW_ROWS = 128
"""An expert that saw fewer is rounded: it would be fitted to chance."""

_E4M3_LIMIT = 448.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """A site's codes, and what is told of them."""

    coded: Coded
    error: float | None = None
    """Relative to the matrix; None where nobody knows it before."""
    reach: float | None = None
    """The largest magnitude of its input in calibration."""
    warnings: tuple[str, ...] = ()


def encode(
    site: Site, recipe: QuantizationRecipe, seen: Sequence[Observation], assembler: Assembler
) -> Encoded:
    """The codes of a site. `seen` is empty where nothing was observed, else one for each matrix."""
    grid = grid_for(recipe, site.inputs, head=site.is_head)
    assert grid is not None, "sites without a grid were left out"
    if site.weight.stacked:
        return _stack(site, recipe, grid, seen, assembler)
    method = QuantizationMethod.ROUND if site.is_head else recipe.method
    found = _matrix(site.weight.parts, method, grid, next(iter(seen), None), assembler)
    if recipe.weights is WeightFormat.FP8 and found.reach is not None and _rounds_input(site):
        scale = max(found.reach, 1e-6) / _E4M3_LIMIT
        return replace(found, coded=replace(found.coded, input_scale=scale))
    return found


def _rounds_input(site: Site) -> bool:
    """Not in the first layer: an error that enters there goes through all the others."""
    return layer_of(site.weight.name) != 0


def _stack(
    site: Site,
    recipe: QuantizationRecipe,
    grid: Grid,
    seen: Sequence[Observation],
    assembler: Assembler,
) -> Encoded:
    """Each expert by its own tokens. What they share, the rows, is neither scaled nor rounded."""
    found, few = [], 0
    for index, part in enumerate(site.weight.parts):
        own = seen[index] if seen else None
        if own is not None and own.count < FEW_ROWS:
            own, few = None, few + 1
        found.append(_matrix((part,), recipe.method, grid, own, assembler, alone=False))
    told = (
        f"{site.weight.name}: {few} of {len(found)} experts saw fewer than {FEW_ROWS} tokens and "
        f"are rounded; calibrate on more prompts"
    )
    errors = [each.error for each in found if each.error is not None]
    reaches = [each.reach for each in found if each.reach is not None]
    return Encoded(
        joined([each.coded for each in found]),
        float(np.sqrt(np.square(errors).mean())),
        max(reaches, default=None),
        (told,) if few and methods.needs_moments(recipe) else (),
    )


def _matrix(
    parts: Sequence[Source],
    method: QuantizationMethod | None,
    grid: Grid,
    seen: Observation | None,
    assembler: Assembler,
    *,
    alone: bool = True,
) -> Encoded:
    def rows() -> Iterator[Floats]:
        return _rows(parts, assembler)

    plan = methods.plan(method, grid, rows, seen, scales_inputs=alone)
    codes, scales, error = _run(rows(), plan, grid)
    groups = np.arange(codes.shape[1]) // grid.block
    coded = Coded(grid.type, codes, scales, groups, multipliers=plan.multipliers)
    return Encoded(coded, error, None if seen is None else seen.reach)


def _rows(parts: Sequence[Source], assembler: Assembler) -> Iterator[Floats]:
    for part in parts:
        count, width = part.shape
        step = count if reads_whole(part) else max(1, RUN // width)
        for start in range(0, count, step):
            yield assembler.rows(part, start, min(start + step, count))


def _run(rows: Iterator[Floats], plan: methods.Plan, grid: Grid) -> tuple[Codes, Floats, float]:
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
