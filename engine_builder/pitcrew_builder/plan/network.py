"""The graphs that a build would store, drawn from the configuration without reading a weight."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pitcrew_builder import serialize
from pitcrew_builder.adapters.slots import Slotted, check_targets, with_slots
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.checkpoint.packed import Packer
from pitcrew_builder.graph.ir import ElementType, Graph, Kinds, Weight
from pitcrew_builder.graph.precision import in_half
from pitcrew_builder.graph.proto import to_proto
from pitcrew_builder.graph.recipe import reads_whole
from pitcrew_builder.graph.segments import segments
from pitcrew_builder.layout import Layout, layouts
from pitcrew_builder.manifest import QuantizationRecipe, ResolvedShapes
from pitcrew_builder.quantize.cache import CODES, even_reaches, narrow_cache
from pitcrew_builder.quantize.recipe import recipe_of
from pitcrew_builder.quantize.shapes import stored
from pitcrew_builder.quantize.sites import kept, packed_sites, sites
from pitcrew_builder.request import describe, resolve_shapes
from pitcrew_builder.spec import BuildSpec, Precision
from pitcrew_builder.targets import backend_of
from pitcrew_builder.targets.contiguous import contiguous
from pitcrew_builder.targets.onnx_files import DATA
from pitcrew_builder.targets.storage import as_stored, kept_kinds

_DTYPES = {"bfloat16": "BF16", "float16": "F16"}
_HALVES = {Precision.FP16: ElementType.FLOAT16, Precision.BF16: ElementType.BFLOAT16}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of what a rank would store."""

    data: int
    """The data files: weights and tables, each at an aligned place."""
    graphs: int
    """The ONNX files beside it: the whole graph, and its segments if it has several."""
    proof: int
    """The same in float32, as it is proven."""
    wide: int
    """The data file of the network in float32 before anything is made narrow."""
    codes: int
    """Of `data`, what quantization computes: it lies in scratch too until that is written."""
    widest: int
    """Of the largest matrix, in float32, that has to be in memory whole."""
    widened: int
    """Of the copy in float32 that is run in place of an engine whose matrices are halves."""
    adapters: int
    """Elements, not bytes, of the stacks that a runtime fills with adapters."""


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank, measured."""

    layout: Layout
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class Planned:
    """A network as a spec asks for it."""

    config: DecoderConfig
    shapes: ResolvedShapes
    ranks: tuple[Rank, ...]
    compares: bool = False
    """Whether the network as it was is written too, to calibrate on and to compare with."""


def planned(spec: BuildSpec, checkpoint: Directory) -> Planned:
    """Draw a rank of every size. Of the checkpoint it reads `config.json`.

    Raises what a build raises for a network that it cannot draw or split.
    """
    found = describe(spec, checkpoint)
    config, scheme = found.config, found.scheme
    shapes = resolve_shapes(spec.shapes, config)
    recipe = recipe_of(spec, scheme)
    decoder, backend = found.family.draw(config, shapes), backend_of(spec)
    check_targets(decoder.graph(), spec.lora)
    sizes: dict[tuple[int, int], Sizes] = {}
    ranks: list[Rank] = []
    for place in layouts(spec.parallelism):
        # Ranks of a stage differ in size by their part of the vocabulary alone.
        alike = (place.pipeline, len(place.vocabulary(config.vocab_size)))
        if alike not in sizes:
            graph = decoder.graph(place)
            slotted = with_slots(Packer(scheme).apply(graph) if scheme else graph, spec.lora)
            optimized = replace(slotted, graph=backend.optimize(slotted.graph))
            sizes[alike] = _sizes(optimized, spec, recipe, _dtype(found.raw))
        ranks.append(Rank(place, sizes[alike]))
    compares = recipe is not None and (recipe.imported is None or spec.proof is not None)
    return Planned(config, shapes, tuple(ranks), compares)


def _dtype(raw: Mapping[str, Any]) -> str:
    """What a configuration says that its tensors are, in safetensors' words."""
    return _DTYPES.get(str(raw.get("dtype", raw.get("torch_dtype"))), "F32")


def _sizes(
    slotted: Slotted, spec: BuildSpec, recipe: QuantizationRecipe | None, dtype: str
) -> Sizes:
    graph = slotted.graph
    if recipe is not None and recipe.kv_cache is not None:
        graph = narrow_cache(graph, CODES[recipe.kv_cache], even_reaches(graph))
    cut = segments(graph)
    parts = [part.graph for part in cut] if len(cut) > 1 else []
    if spec.parallelism.world_size == 1 and not spec.target.compiles_plans:
        parts += filter(None, [contiguous(graph)])
    extents = serialize.place(graph)
    narrow = graph if recipe is None else _narrow(graph, recipe)
    made = {weight.name for weight in narrow.weights} - {weight.name for weight in graph.weights}
    kinds: Kinds = {}
    if not spec.target.compiles_plans:
        left = {weight.name for weight in narrow.weights}
        kept = kept_kinds(graph, lambda _: dtype)
        kinds = {name: kind for name, kind in kept.items() if name in left}
    stored = as_stored(_in_precision(narrow, spec), kinds)
    places = extents | serialize.place(stored)
    graphs = [to_proto(as_stored(each, kinds), places, DATA, {}) for each in (graph, *parts)]
    return Sizes(
        data=_data(stored),
        graphs=sum(each.ByteSize() for each in graphs),
        proof=_data(narrow),
        widened=_data(narrow) if kinds and recipe is None else 0,
        wide=serialize.size(extents),
        codes=sum(weight.nbytes for weight in narrow.weights if weight.name in made),
        widest=_widest(graph, whole=recipe is not None),
        adapters=slotted.elements(spec.lora) if spec.lora else 0,
    )


def _data(graph: Graph) -> int:
    return serialize.size(serialize.place(graph))


def _widest(graph: Graph, *, whole: bool) -> int:
    """Bytes in float32 of the largest of all matrices, or of those that are not streamed."""
    held = (
        weight.elements // (weight.shape[0] if weight.stacked else 1)
        for weight in graph.weights
        if whole or any(map(reads_whole, weight.parts))
    )
    return 4 * max(held, default=0)


def _in_precision(graph: Graph, spec: BuildSpec) -> Graph:
    """The graph with the element types that its weights are stored in."""
    half = _HALVES.get(spec.precision)
    return graph if half is None else in_half(graph, half)


def _narrow(graph: Graph, recipe: QuantizationRecipe) -> Graph:
    """Matrices replaced by codes and scales of the sizes that they will have."""
    head = recipe.head is not None
    chosen = packed_sites(graph) if recipe.imported else sites(graph, head=head)
    left = set(kept(graph, chosen))
    heads = {site.weight.name: site.is_head and not recipe.imported for site in chosen}
    weights: list[Weight] = []
    for weight in graph.weights:
        coded = weight.name in heads
        if not coded or weight.name in left:
            weights.append(weight)
        if coded:
            weights += stored(weight, recipe, head=heads[weight.name])
    return replace(graph, weights=tuple(weights))
