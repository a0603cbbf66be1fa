"""Graphs: what their rewrites may and may not change, and that drawing is repeatable."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from pitcrew_builder.blocks.angles import tables
from pitcrew_builder.blocks.rope import Rope
from pitcrew_builder.blocks.rope_scaling import LinearScaling, Llama3Scaling
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import ElementType, Graph, Literal, Weight
from pitcrew_builder.graph.proto import Extent, to_proto
from pitcrew_builder.manifest import ResolvedShapes
from pitcrew_builder.optimize import join_projections
from pitcrew_builder.serialize import place
from tests.unit.builder import checkpoints

SHAPES = ResolvedShapes(max_batch_size=2, max_sequence_length=64, kv_page_size=4)


def _llama() -> Graph:
    family = FAMILIES["llama"]
    return family.graph(family.config.model_validate(checkpoints.CONFIG), SHAPES)


def _bytes(graph: Graph) -> bytes:
    proto = to_proto(graph, place(graph), "data", {})
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def test_drawing_is_repeatable() -> None:
    assert _bytes(_llama()) == _bytes(_llama())


def test_node_and_tensor_names_are_unique() -> None:
    for graph in (_llama(), join_projections(_llama())):
        names = [node.name for node in graph.nodes]
        values = [value for node in graph.nodes for value in node.outputs]
        assert len(set(names)) == len(names)
        assert len(set(values)) == len(values)


def test_attention_is_one_function_node_a_layer() -> None:
    graph = _llama()
    paged = [node for node in graph.nodes if node.op == "PagedAttention"]
    assert [node.domain for node in paged] == ["llm", "llm"]
    assert all(node.attribute("plugin_version") == "1" for node in paged)
    masks = {node.inputs[-1] for node in paged}
    assert len(masks) == 1


def test_projections_of_the_same_rows_are_joined() -> None:
    plain, joined = _llama(), join_projections(_llama())
    count = {g: sum(node.op == "Gemm" for node in g.nodes) for g in (plain, joined)}
    # Seven matrices a layer become four: Q+K+V, O, gate+up, down.
    assert (count[plain], count[joined]) == (2 * 7 + 1, 2 * 4 + 1)
    assert sum(w.elements for w in plain.weights) == sum(w.elements for w in joined.weights)


def _rows_graph(*, bias: bool, twice: bool) -> Graph:
    e = Emitter("rows")
    rows = e.input("rows", ElementType.FLOAT32, "n", 6)
    for index, width in enumerate((3, 5)):
        operands = [rows, e.weight("shared" if twice else f"m{index}", 4 if twice else width, 6)]
        if bias:
            operands.append(e.weight(f"b{index}", width))
        e.output(e.op("Gemm", *operands, transB=1), f"y{index}", ElementType.FLOAT32, "n", width)
    return e.graph()


def _run(graph: Graph, weights: dict[str, np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
    """Compute with ONNX's own reference implementation."""
    proto = to_proto(graph, {weight.name: Extent(0, 0) for weight in graph.weights}, "data", {})
    recipes = {weight.name: weight for weight in graph.weights}
    for tensor in proto.graph.initializer:
        if tensor.name in recipes:
            parts = [weights[part.name] for part in recipes[tensor.name].parts]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.concatenate(parts), tensor.name))
    outputs = ReferenceEvaluator(proto).run(None, {"rows": rows})
    assert isinstance(outputs, list)
    return outputs


@pytest.mark.parametrize("bias", [False, True])
def test_joining_changes_no_result(bias: bool) -> None:
    rng = np.random.default_rng(0)
    plain = _rows_graph(bias=bias, twice=False)
    weights = {
        str(weight.name): rng.standard_normal(weight.shape).astype(np.float32)
        for weight in plain.weights
    }
    rows = rng.standard_normal((2, 6)).astype(np.float32)
    joined = join_projections(plain)
    assert sum(node.op == "Gemm" for node in joined.nodes) == 1
    for before, after in zip(_run(plain, weights, rows), _run(joined, weights, rows), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-6)


def test_shared_matrices_are_not_joined() -> None:
    graph = _rows_graph(bias=False, twice=True)
    assert join_projections(graph).nodes == graph.nodes


def test_a_weight_is_its_parts_one_after_the_other() -> None:
    joined = join_projections(_rows_graph(bias=True, twice=False))
    shapes = {weight.name: (weight.shape, len(weight.parts)) for weight in joined.weights}
    assert shapes == {"m0+m1": ((8, 6), 2), "b0+b1": ((8,), 2)}
    assert all(isinstance(weight, Weight) for weight in joined.weights)
    assert all(isinstance(literal, Literal) for literal in joined.literals)


def test_linear_scaling_stretches_positions() -> None:
    plain = tables(Rope(8, 10000.0), 64)
    stretched = tables(Rope(8, 10000.0, LinearScaling(4.0)), 256)
    np.testing.assert_allclose(plain[0], stretched[0][::4], atol=1e-6)


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    scaling = Llama3Scaling(8.0, 1.0, 4.0, original_length=32)
    plain, scaled = tables(Rope(64, 10000.0), 9)[1], tables(Rope(64, 10000.0, scaling), 9)[1]
    np.testing.assert_allclose(plain[:, 0], scaled[:, 0], atol=1e-6)
    np.testing.assert_allclose(plain[1, -1], scaled[8, -1], rtol=1e-5)
