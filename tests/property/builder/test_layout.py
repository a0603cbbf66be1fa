"""Layouts: every element of every weight is on exactly the ranks that it should be on."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.ir import Graph
from pitcrew_builder.graph.recipe import Columns, Rows, Source, TensorRef
from pitcrew_builder.graph.segments import segments
from pitcrew_builder.layout import Layout, layouts
from pitcrew_builder.manifest import ResolvedShapes
from pitcrew_builder.spec import Parallelism

SHAPES = ResolvedShapes(max_batch_size=2, max_sequence_length=16, kv_page_size=4)
DEGREES = st.builds(
    Parallelism,
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.integers(1, 3),
    expert=st.sampled_from([1, 3]),
)
SPLIT = ("_proj.weight", "lm_head.weight")


@st.composite
def configs(draw: st.DrawFn) -> dict[str, object]:
    """A Mixtral or a Llama whose sizes four tensor ranks can share."""
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    mixture = draw(st.booleans())
    return {
        "model_type": "mixtral" if mixture else "llama",
        "hidden_size": 8,
        "head_dim": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": kv_heads,
        "intermediate_size": 4 * draw(st.integers(1, 3)),
        "num_hidden_layers": draw(st.integers(3, 4)),
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        # Not a multiple of the ranks: the last one has fewer tokens.
        "vocab_size": draw(st.integers(13, 40)),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": 16,
    }


def _graph(config: dict[str, object], layout: Layout) -> Graph:
    family = FAMILIES[str(config["model_type"])]
    return family.graph(family.config.model_validate(config), SHAPES, layout)


def _taken(source: Source) -> tuple[str, np.ndarray]:
    """The tensor that a recipe reads, and which of its elements, by number."""
    if isinstance(source, TensorRef):
        return source.name, np.arange(np.prod(source.shape)).reshape(source.shape)
    assert isinstance(source, Rows | Columns)
    name, numbers = _taken(source.source)
    if isinstance(source, Rows):
        return name, numbers[source.start : source.stop : source.step]
    return name, numbers[:, source.start : source.stop]


def _holders(config: dict[str, object], degrees: Parallelism) -> dict[str, Counter[int]]:
    """By tensor and element, on how many ranks it lies."""
    holders: dict[str, Counter[int]] = {}
    for layout in layouts(degrees):
        for weight in _graph(config, layout).weights:
            for part in weight.parts:
                name, numbers = _taken(part)
                holders.setdefault(name, Counter()).update(numbers.ravel().tolist())
    return holders


def _copies(name: str, config: dict[str, object], degrees: Parallelism) -> int:
    """On how many ranks each element of a tensor must lie."""
    if ".experts." in name:
        return 1
    if "k_proj" in name or "v_proj" in name:
        repeated = max(1, degrees.tensor // int(str(config["num_key_value_heads"])))
        return repeated * degrees.expert
    if "embed_tokens" in name:
        ends = 2 if config["tie_word_embeddings"] and degrees.pipeline > 1 else 1
        return ends * degrees.expert
    if name.endswith(SPLIT):
        return degrees.expert
    return degrees.tensor * degrees.expert


@given(configs(), DEGREES)
def test_every_element_is_on_exactly_the_right_ranks(
    config: dict[str, object], degrees: Parallelism
) -> None:
    if config["model_type"] == "llama":
        degrees = degrees.model_copy(update={"expert": 1})
    whole = _graph(config, next(layouts(Parallelism())))
    sizes = {ref.name: int(np.prod(ref.shape)) for w in whole.weights for ref in w.tensors}
    holders = _holders(config, degrees)
    assert set(holders) == set(sizes)
    for name, counts in holders.items():
        assert len(counts) == sizes[name], name
        assert set(counts.values()) == {_copies(name, config, degrees)}, name


@given(DEGREES)
def test_ranks_are_numbered_and_grouped(degrees: Parallelism) -> None:
    places = list(layouts(degrees))
    assert [place.rank for place in places] == list(range(degrees.world_size))
    for place in places:
        assert place.rank in place.tensor_group
        assert set(place.tensor_group) <= set(place.expert_group)
        assert place.tensor_group[place.tensor] == place.rank
        others = [places[rank] for rank in place.expert_group]
        assert {other.pipeline for other in others} == {place.pipeline}
        assert all(other.expert_group == place.expert_group for other in others)
    groups = Counter(place.expert_group for place in places)
    assert sum(groups.values()) == degrees.world_size


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 8))
def test_layers_and_tokens_are_dealt_out_once(total: int, pipeline: int, tensor: int) -> None:
    stages = [Layout(Parallelism(pipeline=pipeline), pipeline=i) for i in range(pipeline)]
    assert [layer for stage in stages for layer in stage.layers(total)] == list(range(total))
    assert max(len(s.layers(total)) for s in stages) <= 1 + min(
        len(s.layers(total)) for s in stages
    )
    ranks = [Layout(Parallelism(tensor=tensor), tensor=i) for i in range(tensor)]
    assert [token for rank in ranks for token in rank.vocabulary(total)] == list(range(total))


@given(configs(), DEGREES)
def test_segments_compute_every_node_once_from_what_they_are_given(
    config: dict[str, object], degrees: Parallelism
) -> None:
    if config["model_type"] == "llama":
        degrees = degrees.model_copy(update={"expert": 1})
    for layout in layouts(degrees):
        graph = _graph(config, layout)
        known = {port.name for port in graph.inputs}
        nodes: list[str] = []
        for segment in segments(graph):
            assert {port.name for port in segment.graph.inputs} <= known
            nodes += [node.name for node in segment.graph.nodes]
            known |= {port.name for port in segment.graph.outputs}
            assert {exchange.value for exchange in segment.exchanges} <= known
            known |= {exchange.result for exchange in segment.exchanges}
        assert {port.name for port in graph.outputs} <= known
        collective = [n.name for n in graph.nodes if n.op in ("AllReduce", "AllGather")]
        assert sorted([*nodes, *collective]) == sorted(node.name for node in graph.nodes)
