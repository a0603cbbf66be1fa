"""Making a drawn network narrow on all ranks: its matrices, its KV cache, or both."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.manifest import CacheRange, QuantizationRecipe, QuantizedMatrix
from pitcrew_builder.quantize.cache import CODES, Reach, narrow_cache, observe_cache, ranges
from pitcrew_builder.quantize.observe import Calibration
from pitcrew_builder.quantize.quantizer import Quantized, quantize
from pitcrew_builder.quantize.sites import kept
from pitcrew_builder.targets.target import Drawn, Network, Site


@dataclass(frozen=True, slots=True)
class Narrowed:
    """All ranks, and what was done to them."""

    ranks: tuple[Network, ...]
    matrices: tuple[QuantizedMatrix, ...]
    kept: tuple[str, ...]
    """Matrices that stayed as they were."""
    cache: tuple[CacheRange, ...]
    warnings: tuple[str, ...]


def narrow(
    drawn: Drawn, recipe: QuantizationRecipe, calibration: Calibration | None, site: Site
) -> Narrowed:
    """Follow the recipe; `calibration` may be None where it asks for none.

    Raises `InvalidSpec` where no matrix can be made as narrow as it asks.
    """
    reaches: Mapping[int, Reach] = {}
    if recipe.kv_cache is not None:
        assert calibration is not None, "asked for with a narrow cache"
        with site.tracker.part(0, 2):
            reaches = observe_cache(calibration, site.tracker.advance)
    done = Quantized(drawn.ranks, (), kept(drawn.whole.graph, ()))
    if recipe.weights is not None:
        with site.tracker.part(1, 2):
            advance = site.tracker.advance
            done = quantize(drawn, recipe, calibration, site.scratch, advance)
    ranks = done.ranks
    if recipe.kv_cache is not None:
        kind = CODES[recipe.kv_cache]
        ranks = tuple(_with_cache(rank, kind, reaches) for rank in ranks)
    return Narrowed(ranks, done.matrices, done.kept, ranges(reaches), done.warnings)


def _with_cache(rank: Network, kind: ElementType, reaches: Mapping[int, Reach]) -> Network:
    own = {layer: reach.heads(rank.placement) for layer, reach in reaches.items()}
    return replace(rank, graph=narrow_cache(rank.graph, kind, own))
