"""Making a drawn network narrow, rank by rank: its matrices, its KV cache, or both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.manifest import CacheRange, QuantizationRecipe, QuantizedMatrix
from pitcrew_builder.quantize.cache import CODES, Reach, narrow_cache, observe_cache, ranges
from pitcrew_builder.quantize.observe import Calibration
from pitcrew_builder.quantize.quantizer import Quantized, quantize
from pitcrew_builder.quantize.scratch import Scratch
from pitcrew_builder.quantize.sites import kept
from pitcrew_builder.targets.target import Network, Site


@dataclass(frozen=True, slots=True)
class Narrowed:
    """All ranks, and what was done to them."""

    ranks: tuple[Network, ...]
    matrices: tuple[QuantizedMatrix, ...]
    kept: tuple[str, ...]
    """Matrices of the first rank that stayed as they were."""
    cache: tuple[CacheRange, ...]


def narrow(
    networks: Sequence[Network], recipe: QuantizationRecipe, calibration: Calibration, site: Site
) -> Narrowed:
    """Follow the recipe. Raises `InvalidSpec` where no matrix can be made as narrow as it asks."""
    parts = 1 + len(networks)
    reaches: Mapping[int, Reach] = {}
    if recipe.kv_cache is not None:
        with site.tracker.part(0, parts):
            reaches = observe_cache(calibration, site.tracker.advance)
    done: list[Quantized] = []
    for rank, network in enumerate(networks):
        with site.tracker.part(1 + rank, parts):
            done.append(_rank(replace(site, rank=rank), network, recipe, calibration, reaches))
    return Narrowed(
        tuple(each.network for each in done),
        tuple(matrix for each in done for matrix in each.matrices),
        done[0].kept,
        ranges(reaches),
    )


def _rank(
    site: Site,
    network: Network,
    recipe: QuantizationRecipe,
    calibration: Calibration,
    reaches: Mapping[int, Reach],
) -> Quantized:
    done = Quantized(network, (), kept(network.graph, ()))
    if recipe.weights is not None:
        with Scratch(site.scratch / f"codes{site.rank}.bin") as scratch:
            done = quantize(network, recipe, calibration, scratch, site.tracker.advance)
    if recipe.kv_cache is None:
        return done
    own = {layer: reach.heads(network.placement) for layer, reach in reaches.items()}
    graph = narrow_cache(done.network.graph, CODES[recipe.kv_cache], own)
    return replace(done, network=replace(done.network, graph=graph))
