"""The kernels for products and norms as far as a CPU can tell: sizes, offers, sources, plugins."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.blocks.moe import CLAMPED_MIXTURE_OF_EXPERTS, MIXTURE_OF_EXPERTS
from pitcrew_builder.graph.ir import Attribute, ElementType, Function, Graph, Node, Value, Weight
from pitcrew_builder.graph.recipe import TensorRef
from pitcrew_builder.spec import BuildSpec, ComputeCapability, Products, TensorRt, TensorRtPlan
from pitcrew_builder.targets.trt import norms, products
from pitcrew_builder.targets.trt.kernel_choice import (
    versions,
    with_joined_products,
    with_own_kernels,
)
from pitcrew_builder.targets.trt.norms.launch import Rows
from pitcrew_builder.targets.trt.nvrtc import compiled
from pitcrew_builder.targets.trt.products.launch import (
    ENTRY,
    FEW,
    MOST,
    NARROW,
    OUTPUTS,
    SHARED_BYTES,
    SOURCE,
    TILE,
    TOGETHER,
    Matrix,
)
from tests.unit.builder.trt_doubles import Expression, described, modules

MATRIX = Matrix(outputs=2048, inputs=2048, bfloat16=False)
OWN = TensorRtPlan(compute_capability=ComputeCapability.SM90, products=Products.KERNEL)

matrices = st.builds(
    Matrix,
    outputs=st.integers(1, 1 << 17),
    inputs=st.integers(1, 2048).map(lambda chunks: 8 * chunks),
    bfloat16=st.booleans(),
    biased=st.booleans(),
    count=st.sampled_from([1, 8, 128]),
)
with_nvrtc = pytest.mark.skipif(
    find_spec("cuda") is None, reason="NVRTC is not packaged for this machine"
)


@given(matrices, st.integers(1, 8192), st.sampled_from([80, 90, 120]))
def test_every_output_of_every_row_has_its_blocks(
    matrix: Matrix, rows: int, capability: int
) -> None:
    parts, grid = matrix.parts(capability), matrix.grid(rows, capability)
    if rows <= FEW:
        units = shared = matrix.count * -(-rows // MOST) * -(-matrix.outputs // OUTPUTS)
    else:
        units = _tiles(matrix, rows, capability)
        shared = _left_over(units, parts, capability)
    assert grid % parts == 0, "whole clusters"
    assert 0 <= grid - (units + shared * (parts - 1)) < parts


def _tiles(matrix: Matrix, rows: int, capability: int) -> int:
    """Of many rows: half as wide where Hopper's processors would be idle."""
    tall = matrix.count * -(-rows // TILE)
    wide = tall * -(-matrix.outputs // TILE)
    return tall * -(-matrix.outputs * 2 // TILE) if capability == 90 and wide <= NARROW else wide


def _left_over(tiles: int, parts: int, capability: int) -> int:
    """Tiles of many rows that blocks share: those of a last wave that is at most one of clusters."""
    together = TOGETHER[parts] if capability == 90 else 0
    left = tiles % together if together else 0
    return left if left * parts <= together else 0


@given(matrices, st.integers(FEW + 1, 8192))
def test_blocks_share_tiles_where_that_takes_no_other_wave(matrix: Matrix, rows: int) -> None:
    together = TOGETHER[matrix.parts(90)]
    if together:
        assert together % matrix.parts(90) == 0, "shared tiles begin with a cluster"
        tiles = _tiles(matrix, rows, 90)
        assert -(-matrix.grid(rows, 90) // together) == -(-tiles // together)


@given(matrices)
def test_only_gpus_with_clusters_share_a_product(matrix: Matrix) -> None:
    assert matrix.parts(80) == 1
    assert matrix.parts(90) in (1, 2, 4, 8)


@given(matrices, st.integers(1, 8192))
def test_the_grid_can_be_told_in_expressions(matrix: Matrix, rows: int) -> None:
    assert matrix.grid(Expression(rows), 90).value == matrix.grid(rows, 90)


@with_nvrtc
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(("outputs", "capability"), [(512, 90), (8192, 90), (512, 80), (512, 120)])
def test_the_product_compiles_for_every_gpu(
    outputs: int, capability: int, bfloat16: bool, biased: bool
) -> None:
    matrix = Matrix(outputs, 4096, bfloat16=bfloat16, biased=biased)
    code = compiled(products.__name__, SOURCE, matrix.defines(capability), capability).decode()
    assert f".visible .entry {ENTRY}(" in code
    assert (".reqnctapercluster" in code or ".explicitcluster" in code) == (
        matrix.parts(capability) > 1
    )
    assert ("mma.sync.aligned.m16n8k16.row.col.f32.bf16" in code) == bfloat16
    # Hopper's own products are of that generation alone.
    half = "bf16" if bfloat16 else "f16"
    for width in (64, 128):
        own = f"wgmma.mma_async.sync.aligned.m64n{width}k16.f32.{half}.{half}"
        assert (own in code) == (capability == 90)
    assert (".target sm_90a" in code) == (capability == 90)
    shared = [int(size) for size in re.findall(r"\.shared .*\[(\d+)\];", code)]
    assert sum(shared) <= SHARED_BYTES
    assert ".local " not in code, "arrays stay in registers"


def test_layers_of_one_size_share_their_code() -> None:
    other = replace(MATRIX, inputs=4096)
    assert MATRIX.defines(90) == other.defines(90)


def _product(rows: str, matrix: str, *bias: str) -> Node:
    inputs = tuple(map(Value, (rows, matrix, *bias)))
    return Node("Gemm", f"{rows}*{matrix}", inputs, (Value(f"{rows}*{matrix}"),), (("transB", 1),))


def _weight(name: str, *shape: int) -> Weight:
    return Weight(Value(name), (TensorRef(name, shape),), type=ElementType.FLOAT16)


def _graph(*nodes: Node, weights: tuple[Weight, ...]) -> Graph:
    return Graph("a", inputs=(), outputs=(), nodes=nodes, weights=weights, literals=())


def test_products_name_the_kernel_where_it_knows_the_matrix() -> None:
    weights = (
        _weight("w", 64, 32),
        _weight("b", 64),
        _weight("odd", 64, 33),
        _weight("w4", 64, 32),
    )
    nodes = [
        _product("x", "w"),
        _product("x", "w", "b"),
        _product("x", "odd"),
        _product("x", "w4"),
        _product("x", "computed"),
    ]
    graph = products.offered(_graph(*nodes, weights=weights), {Value("w4"): ElementType.INT4})
    assert [node.op for node in graph.nodes] == ["Product", "BiasedProduct", "Gemm", "Gemm", "Gemm"]
    assert {function.name for function in graph.functions} == {"Product", "BiasedProduct"}
    named = [node.attribute("plugin_namespace") for node in graph.nodes]
    assert named == ["pitcrew", "pitcrew", None, None, None]
    assert [node.inputs for node in graph.nodes] == [node.inputs for node in nodes]


@pytest.mark.parametrize("function", [MIXTURE_OF_EXPERTS, CLAMPED_MIXTURE_OF_EXPERTS])
def test_experts_are_multiplied_by_the_kernel(function: Function) -> None:
    weights = tuple(_weight(name, 4, 64, 64) for name in ("gate", "up", "down"))
    inputs = tuple(map(Value, ("x", "routing", "gate", "up", "down")))
    plugin: tuple[tuple[str, Attribute], ...] = (("plugin_namespace", "pitcrew"),)
    node = Node(function.name, "experts", inputs, (Value("y"),), plugin, "llm")
    graph = products.offered(_graph(node, weights=weights), {})
    (call,) = graph.nodes
    assert call.op == f"{function.name}ByProducts"
    functions = {each.name: each for each in graph.functions}
    inner = [each.op for each in functions[call.op].nodes if each.domain == "llm"]
    assert inner == ["ExpertProducts"] * 3
    assert "ExpertProducts" in functions
    (kept,) = products.offered(_graph(node, weights=weights), {Value("up"): ElementType.INT8}).nodes
    assert kept == node


def test_norms_name_the_kernel_and_give_it_their_epsilon() -> None:
    nodes = [
        Node(
            "RMSNormalization",
            name,
            (Value("x"), Value(scale)),
            (Value(name),),
            (("axis", -1), ("epsilon", epsilon)),
        )
        for name, scale, epsilon in (("a", "s", 1e-5), ("b", "s", 1e-5), ("c", "s", 1e-6))
    ]
    odd = replace(nodes[0], name="d", inputs=(Value("x"), Value("odd")))
    weights = (_weight("s", 64), _weight("odd", 63))
    graph = norms.offered(_graph(*nodes, odd, weights=weights))
    assert [node.op for node in graph.nodes] == ["RmsNorm"] * 3 + ["RMSNormalization"]
    given = {item.name: item.array for item in graph.literals}
    told = [given[node.inputs[2]] for node in graph.nodes[:3]]
    assert [array.tolist() for array in told] == [
        [pytest.approx(1e-5)],
        [pytest.approx(1e-5)],
        [pytest.approx(1e-6)],
    ]
    assert all(array.dtype == np.float32 for array in told)
    assert len(given) == 2


def test_nothing_changes_where_no_kernel_is_chosen() -> None:
    graph = _graph(
        _product("x", "w"), _product("x", "v"), weights=(_weight("w", 8, 8), _weight("v", 8, 8))
    )
    usual = _chosen(Products.OPERATORS)
    assert with_own_kernels(graph, usual, {}) is graph
    assert with_joined_products(graph, usual) is graph


def test_products_of_the_same_rows_become_one() -> None:
    graph = _graph(
        _product("x", "w"), _product("x", "v"), weights=(_weight("w", 8, 8), _weight("v", 8, 8))
    )
    joined = with_own_kernels(with_joined_products(graph, OWN), OWN, {})
    assert [node.op for node in joined.nodes] == ["Product", "Split"]
    (weight,) = joined.weights
    assert weight.shape == (16, 8)


def _chosen(choice: Products) -> TensorRtPlan:
    return OWN.model_copy(update={"products": choice})


def test_the_choice_is_part_of_the_identity_and_the_usual_one_is_not_told() -> None:
    usual, own = (_chosen(choice).model_dump_json(by_alias=True) for choice in Products)
    assert "products" not in json.loads(usual)
    assert json.loads(own)["products"] == "kernel"
    spec = {
        "source": {"kind": "local", "path": "/models/a", "name": "a"},
        "target": "tensorrt",
        "precision": "bf16",
        "tensorrt": {"computeCapability": "sm90", "products": "kernel"},
    }
    options = BuildSpec.model_validate(spec).tensorrt
    assert isinstance(options, TensorRt)
    assert options.plan == OWN


def test_an_engine_names_the_version_of_the_products_that_it_holds() -> None:
    assert list(versions(OWN)) == ["products-kernel"]
    assert not versions(_chosen(Products.OPERATORS))


def _registered(
    monkeypatch: pytest.MonkeyPatch, register: Callable[[int], None]
) -> dict[str, Callable[..., object]]:
    known: dict[str, Callable[..., object]] = {}
    for module, double in modules(known).items():
        monkeypatch.setitem(sys.modules, module, double)
    register.__wrapped__(90)  # type: ignore[attr-defined]
    return known


@with_nvrtc
@pytest.mark.parametrize(
    ("name", "shapes", "matrix", "result", "is_shared"),
    [
        ("Product", [(5, 2048), (2048, 2048)], MATRIX, (5, 2048), 1),
        (
            "BiasedProduct",
            [(300, 64), (48, 64), (48,)],
            Matrix(48, 64, bfloat16=False, biased=True),
            (300, 48),
            1,
        ),
        (
            "ExpertProducts",
            [(5, 64), (4, 48, 64)],
            Matrix(48, 64, bfloat16=False, count=4),
            (4, 5, 48),
            1,
        ),
        (
            "ExpertProducts",
            [(4, 5, 64), (4, 48, 64)],
            Matrix(48, 64, bfloat16=False, count=4),
            (4, 5, 48),
            0,
        ),
    ],
)
def test_the_plugin_launches_what_the_shapes_ask_for(
    name: str,
    shapes: list[tuple[int, ...]],
    matrix: Matrix,
    result: tuple[int, ...],
    is_shared: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = _registered(monkeypatch, products.register)
    tensors = [described(*shape) for shape in shapes]
    output = known[f"pitcrew::{name}"](*tensors)
    assert tuple(size.value for size in output.shape_expr) == result  # type: ignore[attr-defined]
    implement = known[f"pitcrew::{name} implemented"]
    entry, code, launch, sizes = implement(*tensors, (), 0)  # type: ignore[misc]
    assert entry == ENTRY
    assert code == compiled(products.__name__, SOURCE, matrix.defines(90), 90)
    rows = shapes[0][-2]
    assert launch.grid_x.value == matrix.grid(rows, 90)
    told = [getattr(size, "value", size) for size in sizes]
    assert told == [rows, matrix.outputs, matrix.inputs, matrix.count, is_shared]


@with_nvrtc
@pytest.mark.parametrize(("width", "shape"), [(2048, (7, 2048)), (64, (2, 3, 5, 64))])
def test_a_norm_has_a_warp_or_a_block_for_each_row(
    width: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = _registered(monkeypatch, norms.register)
    tensors = [described(*shape), described(width), described(1)]
    assert known["pitcrew::RmsNorm"](*tensors) is tensors[0]
    implement = known["pitcrew::RmsNorm implemented"]
    _, code, launch, (rows,) = implement(*tensors, (), 0)  # type: ignore[misc]
    assert b".visible .entry rms_norm(" in code
    assert rows.value == np.prod(shape[:-1])
    lanes = Rows(width, bfloat16=False).lanes
    assert launch.grid_x.value * (launch.block_x // lanes) >= rows.value
