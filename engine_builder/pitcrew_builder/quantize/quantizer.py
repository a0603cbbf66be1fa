"""Quantization from end to end: take each matrix's codes, cut them to the ranks, rewrite the graphs.

Codes are found on the whole network, or read from a checkpoint that has them; how it is split over
ranks changes none.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pitcrew_builder.checkpoint.assemble import Assembler
from pitcrew_builder.checkpoint.coded import Floats, joined
from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.errors import CheckpointCorrupt, InvalidSpec
from pitcrew_builder.graph.ir import Graph
from pitcrew_builder.manifest import QuantizationRecipe, QuantizedMatrix
from pitcrew_builder.quantize import methods
from pitcrew_builder.quantize.encode import Encoded, encode
from pitcrew_builder.quantize.grid import grid_for
from pitcrew_builder.quantize.observe import Calibration, observe
from pitcrew_builder.quantize.rewrite import foldable_norm
from pitcrew_builder.quantize.scratch import Scratch
from pitcrew_builder.quantize.sites import Site, kept, packed_sites, sites
from pitcrew_builder.quantize.writer import RankWriter
from pitcrew_builder.targets.target import Drawn, Network


@dataclass(frozen=True, slots=True)
class Quantized:
    """All ranks with narrow matrices, and what was done to each of the whole network."""

    ranks: tuple[Network, ...]
    matrices: tuple[QuantizedMatrix, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def quantize(
    drawn: Drawn,
    recipe: QuantizationRecipe,
    calibration: Calibration | None,
    scratch: Path,
    advance: Callable[[float], None],
) -> Quantized:
    """Make the layers' matrices narrow, and the head where asked, on all ranks. `scratch` is a directory for their codes.

    Raises `InvalidSpec` where none can be, `CheckpointCorrupt` where codes are unsound.
    """
    whole = drawn.whole
    chosen = _chosen(whole.graph, recipe)
    matrices: list[QuantizedMatrix] = []
    warnings: list[str] = []
    with ExitStack() as stack:
        assembler = Assembler(whole.tensors, stack.enter_context(WeightReader()))
        files = [Scratch(scratch / f"codes{rank}.bin") for rank in range(len(drawn.ranks))]
        writers = [
            RankWriter(network, chosen, stack.enter_context(file))
            for network, file in zip(drawn.ranks, files, strict=True)
        ]
        for number, (site, found) in enumerate(
            _encoded(chosen, recipe, calibration, assembler, advance)
        ):
            coded, multipliers = found.coded, found.coded.multipliers
            norm = None if multipliers is None else foldable_norm(whole.graph, site)
            if norm is not None and multipliers is not None:
                scaled = _values(whole.graph, norm, assembler) / multipliers
                coded = replace(coded, multipliers=None)
                for writer in writers:
                    writer.norm(norm, scaled)
            for writer in writers:
                writer.take(number, coded)
            matrices.append(_described(site, found))
            warnings.extend(found.warnings)
        done = tuple(writer.network() for writer in writers)
    return Quantized(done, tuple(matrices), kept(whole.graph, chosen), tuple(warnings))


def _chosen(graph: Graph, recipe: QuantizationRecipe) -> tuple[Site, ...]:
    if recipe.imported is not None:
        packed = packed_sites(graph)
        if not packed:
            raise CheckpointCorrupt(
                f"config.json says that the checkpoint is quantized ({recipe.imported.method}), and "
                f"no tensor is; take both from the same revision of the checkpoint"
            )
        return packed
    found = sites(graph, head=recipe.head is not None)
    chosen = tuple(s for s in found if grid_for(recipe, s.inputs, head=s.is_head) is not None)
    if all(site.is_head for site in chosen):
        raise InvalidSpec(
            f"quantization.weights is {recipe.weights}, and no matrix of this network can be made "
            f"so; leave quantization out"
        )
    return chosen


def _encoded(
    chosen: Sequence[Site],
    recipe: QuantizationRecipe,
    calibration: Calibration | None,
    assembler: Assembler,
    advance: Callable[[float], None],
) -> Iterator[tuple[Site, Encoded]]:
    if recipe.calibrates_weights:
        assert calibration is not None, "asked for with the method"
        moments = methods.needs_moments(recipe)
        layers = [site for site in chosen if not site.is_head]
        for site, seen in observe(calibration, layers, moments=moments, advance=advance):
            yield site, encode(site, recipe, seen, assembler)
        for site in chosen[len(layers) :]:
            yield site, encode(site, recipe, (), assembler)
        return
    for index, site in enumerate(chosen):
        if recipe.imported is not None:
            yield site, Encoded(joined([assembler.coded(part) for part in site.weight.parts]))
        else:
            yield site, encode(site, recipe, (), assembler)
        advance((index + 1) / len(chosen))


def _values(graph: Graph, name: str, assembler: Assembler) -> Floats:
    weight = next(weight for weight in graph.weights if weight.name == name)
    return np.concatenate([assembler.rows(p, 0, p.shape[0]) for p in weight.parts])


def _described(site: Site, found: Encoded) -> QuantizedMatrix:
    coded = found.coded
    stored = [part for part in (coded.scales, coded.zeros) if part is not None]
    return QuantizedMatrix(
        name=site.weight.name,
        block=int(np.bincount(coded.groups).max()),
        bytes_before=site.weight.nbytes,
        bytes_after=coded.codes.size * coded.type.bits // 8 + sum(part.nbytes for part in stored),
        relative_error=found.error,
        input_range=found.reach,
    )
