"""From a request and its tensors to the networks that are written: drawn, matched, merged, optimized."""

from collections.abc import Sequence

from pitcrew_builder.adapters.merge import check_adapters, merge, open_adapters, tensors_of
from pitcrew_builder.adapters.slots import check_targets, with_slots
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.checkpoint.directory import read_tensors
from pitcrew_builder.checkpoint.match import check_match
from pitcrew_builder.checkpoint.packed import Packer
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.checkpoint.tied import are_apart, with_embedding
from pitcrew_builder.checkpoint.tokenizer import check_tokenizer
from pitcrew_builder.checkpoint.wrapped import language_tensors
from pitcrew_builder.families.family import ignored_tensors
from pitcrew_builder.graph.ir import Graph
from pitcrew_builder.layout import SOLE, Layout, layouts
from pitcrew_builder.manifest import Placement
from pitcrew_builder.progress import Tracker
from pitcrew_builder.report import Phase
from pitcrew_builder.request import Described, Request, placement_of
from pitcrew_builder.sources.source import Located
from pitcrew_builder.targets.target import Backend, Drawn, Network


def draw_network(
    request: Request,
    located: Located,
    merged: Sequence[Located],
    backend: Backend,
    tracker: Tracker,
) -> Drawn:
    """The network, proven to need exactly the tensors that are there."""
    found, identity = request.network, request.identity
    family = found.family
    with tracker.phase(Phase.PARSE, "reading tensor headers"):
        config, tensors = _agreed(found, read_tensors(located.directory))
        check_tokenizer(located.directory)
        adapters = open_adapters(request.identity.adapters, [item.directory for item in merged])
    with tracker.phase(Phase.GRAPH, f"drawing a {family.name}"):
        decoder = family.draw(config, identity.shapes)
        packer = Packer(found.scheme, tensors) if found.scheme else None

        def draw(place: Layout = SOLE) -> Graph:
            graph = decoder.graph(place)
            return packer.apply(graph) if packer else graph

        whole = draw()
        wanted = [ref for weight in whole.weights for ref in weight.tensors]
        unused = packer.unused(wanted) if packer else ()
        check_match(wanted, tensors, (*ignored_tensors(family, config), *unused))
        check_adapters(whole, adapters)
        check_targets(whole, identity.lora)
        tensors |= tensors_of(adapters)
    with tracker.phase(Phase.OPTIMIZE, "joining projections"):
        places = list(layouts(identity.parallelism))

        def network(graph: Graph, placement: Placement | None) -> Network:
            slotted = with_slots(graph, identity.lora)
            optimized = backend.optimize(merge(slotted.graph, adapters))
            return Network(optimized, tensors, placement, slotted.targets)

        unsplit = network(whole, None)
        ranks: tuple[Network, ...] = (unsplit,)
        if len(places) > 1:
            drawn = ((draw(place), placement_of(place, config)) for place in places)
            ranks = tuple(network(graph, placement) for graph, placement in drawn)
    return Drawn(ranks, unsplit, sum(weight.elements for weight in whole.weights))


def _agreed(
    found: Described, tensors: dict[str, TensorInfo]
) -> tuple[DecoderConfig, dict[str, TensorInfo]]:
    """The config, and the tensors of the language model by its own names; both tied, or neither."""
    config = found.config
    if found.wrapped:
        tensors = language_tensors(tensors)
    if config.tie_word_embeddings:
        tensors = with_embedding(tensors)
        if are_apart(tensors):
            return config.model_copy(update={"tie_word_embeddings": False}), tensors
    return config, tensors
