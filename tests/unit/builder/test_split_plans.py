"""A rank's network as several plans: what passes between them, what is stated of it, and what is compiled."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.ir import Graph, Value
from pitcrew_builder.layout import layouts
from pitcrew_builder.manifest import Identity, Placement, ResolvedShapes
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import (
    Attention,
    ComputeCapability,
    Parallelism,
    Precision,
    Products,
    Target,
    TensorRt,
)
from pitcrew_builder.targets.target import Network, Site, Written
from pitcrew_builder.targets.trt.backends import TensorRtGpu
from pitcrew_builder.targets.trt.compiler import Compiled, Compiler, Order
from pitcrew_builder.targets.trt.parts import parts
from pitcrew_builder.targets.trt.shapes import shapes_of

GOLDENS = Path(__file__).parents[2] / "golden/data"
PAGE = 16
SHAPES = ResolvedShapes(max_batch_size=4, max_sequence_length=128, kv_page_size=PAGE)
NAMES = sorted(
    path.parent.name
    for path in GOLDENS.glob("*/config.json")
    if json.loads(path.read_text()).get("num_key_value_heads", 2) > 1
)
PLACE = Placement(
    tensor=1, pipeline=0, expert=0, first_layer=0, layers=3, first_kv_head=1, kv_heads=1
)


class _Copying(Compiler):
    """Takes the graph itself for the plan, once it has looked at what it is given."""

    def __init__(self) -> None:
        super().__init__(None)
        self.orders: list[Order] = []

    def compile(self, order: Order, advance: Callable[[float], None]) -> Compiled:
        model = onnx.load(order.graph, load_external_data=False)
        for profile in order.profiles:
            assert list(profile.shapes) == [each.name for each in model.graph.input]
            for least, usual, most in profile.shapes.values():
                assert np.all(np.less_equal(least, usual)), profile
                assert np.all(np.less_equal(usual, most)), profile
        order.plan.write_bytes(model.SerializeToString())
        self.orders.append(order)
        advance(1.0)
        return Compiled(())


class _Backend(TensorRtGpu):
    __slots__ = ("compiling",)

    def toolchain(self) -> dict[str, str]:
        return {"cuda": "13", "tensorrt": "10.15.1"}

    def compiler(self, site: Site) -> Compiler:
        return self.compiling  # type: ignore[no-any-return]


def rank(checkpoint: Path, split: Parallelism, number: int = 1) -> Graph:
    raw = json.loads((checkpoint / "config.json").read_text())
    family = FAMILIES[raw["model_type"]]
    config = family.config.model_validate(raw)
    return family.draw(config, SHAPES).graph(list(layouts(split))[number])


def written(checkpoint: Path, root: Path, graph: Graph) -> tuple[Written, _Copying]:
    options = TensorRt(
        compute_capability=ComputeCapability.SM90,
        prefill_chunk=64,
        attention=Attention.KERNEL,
        products=Products.KERNEL,
    )
    backend = _Backend(Precision.FP16, options)
    compiling = _Copying()
    object.__setattr__(backend, "compiling", compiling)
    identity = Identity(
        model=checkpoint.name,
        commit="0" * 40,
        inputs={},
        target=Target.TENSORRT,
        precision=backend.precision,
        parallelism=Parallelism(tensor=2),
        shapes=SHAPES,
        toolchain=backend.toolchain(),
        builder_version="0",
        tensorrt=options.plan,
    )
    for name in ("engine", "scratch"):
        (root / name).mkdir()
    site = Site(
        root / "engine", root / "scratch", root / "cache", identity, Tracker(lambda _: None), 1
    )
    network = Network(backend.optimize(graph), read_tensors(Directory.of(checkpoint)), PLACE)
    return backend.write(network, site), compiling


@pytest.mark.parametrize("name", ["llama3", "mixtral", "olmo2"])
def test_a_rank_is_a_plan_for_each_segment(name: str, tmp_path: Path) -> None:
    """Two a layer, or three where norms are over all heads, after the embedding, and the head's two."""
    graph = rank(GOLDENS / name, Parallelism(tensor=2))
    made, compiling = written(GOLDENS / name, tmp_path, graph)
    interface = made.interface
    assert interface.graph is None
    assert interface.plan is not None
    layers = sum(port.name.startswith("key_pool") for port in graph.inputs)
    assert len(interface.segments) == (3 if name == "olmo2" else 2) * layers + 3
    assert [each.path for each in made.files] == [each.graph for each in interface.segments]
    assert [each.plan for each in compiling.orders] == [
        tmp_path / "engine" / each.graph for each in interface.segments
    ]
    assert all((tmp_path / "engine" / each.path).stat().st_size == each.size for each in made.files)
    assert interface.segments[-2].exchanges[0].operator == "AllGather"
    assert set(interface.plan.profiles[0].shapes) == {port.name for port in graph.inputs}
    exchanged = {
        value
        for segment in interface.segments
        for exchange in segment.exchanges
        for value in (exchange.value, exchange.result)
    }
    assert exchanged <= {value.name for value in interface.plan.passed}


def test_an_engine_that_is_not_split_is_one_plan(tmp_path: Path) -> None:
    graph = rank(GOLDENS / "llama3", Parallelism(), 0)
    made, compiling = written(GOLDENS / "llama3", tmp_path, graph)
    assert made.interface.whole == "rank1/model.plan"
    assert not made.interface.segments
    assert made.interface.plan is not None
    assert not made.interface.plan.passed
    assert len(compiling.orders) == 1


@pytest.mark.parametrize("name", NAMES)
def test_no_integer_passes_and_all_that_passes_has_a_shape(name: str) -> None:
    """A compiler takes integers that are lengths from the host."""
    graph = rank(GOLDENS / name, Parallelism(tensor=2))
    made = parts(graph, PAGE)
    own = {port.name for port in graph.inputs}
    passed = {value.name: value for value in made.passed}
    assert {value.type for value in made.passed} == {"float32"}
    given: set[str] = set()
    for segment in made.segments:
        for port in segment.graph.inputs:
            assert port.name in own or port.name in given, "it comes from before"
            assert port.shape is not None
        given |= {port.name for port in segment.graph.outputs}
        given |= {exchange.result for exchange in segment.exchanges}
    words = {dim for value in passed.values() for dim in value.shape if isinstance(dim, str)}
    assert words <= {"batch", "new", "rows", "wanted_rows", "seen"}
    outputs = [port.name for segment in made.segments for port in segment.graph.outputs]
    assert {port.name for port in graph.outputs} <= set(outputs)
    assert len(outputs) == len(set(outputs)), "nothing is made twice"


def test_shapes_are_told_in_words() -> None:
    graph = rank(GOLDENS / "llama3", Parallelism(tensor=2))
    wanted = ("step/mask", "step/cos", "layers.0/o_proj", "head/lm_head", "head/AllGather")
    found = shapes_of(graph, [Value(name) for name in wanted], PAGE)
    assert found == {
        "step/mask": ("batch", 1, "new", "seen"),
        "step/cos": ("batch", "new", 8),
        "layers.0/o_proj": ("rows", 64),
        "head/lm_head": ("wanted_rows", 256),
        "head/AllGather": ("wanted_rows", 512),
    }
