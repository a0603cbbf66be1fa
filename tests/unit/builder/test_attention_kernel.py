"""The attention kernel as far as a CPU can tell: sizes, its offer, its source, and its plugin."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pitcrew_builder.errors import CompilationFailed
from pitcrew_builder.graph.ir import Attribute, Graph, Node, Value
from pitcrew_builder.spec import BuildSpec
from pitcrew_builder.targets.trt.attention import plugin
from pitcrew_builder.targets.trt.attention.launch import (
    ENTRY,
    SHARED_BYTES,
    SOURCE,
    STAGES,
    Heads,
)
from pitcrew_builder.targets.trt.attention.offer import offered
from pitcrew_builder.targets.trt.nvrtc import compiled
from tests.unit.builder.trt_doubles import Expression, TensorDesc, described, modules

HEADS = Heads(heads=32, kv_heads=8, head_dim=64, page=16, bfloat16=False)
DIMS = (16, 32, 48, 64, 80, 96, 112, 128, 192, 256)

heads = st.builds(
    lambda group, kv_heads, dim: replace(
        HEADS, heads=group * kv_heads, kv_heads=kv_heads, head_dim=dim
    ),
    st.integers(1, 16),
    st.integers(1, 16),
    st.sampled_from(DIMS),
)


@given(heads, st.integers(1, 512), st.integers(1, 4096), st.sampled_from([80, 90, 120]))
def test_every_row_is_in_one_unit_and_every_unit_has_its_blocks(
    heads: Heads, batch: int, new_tokens: int, capability: int
) -> None:
    launch = heads.launch(batch, new_tokens, capability)
    rows = new_tokens * heads.heads // heads.kv_heads
    tile = 16 if rows < heads.prefill_rows else 16 * heads.warps
    assert launch.units == batch * heads.kv_heads * -(-rows // tile)
    assert launch.parts in ((1, 4, 8) if capability >= 90 else (1,))
    together = 8 if capability >= 90 else 1
    assert launch.grid % together == 0
    assert 0 <= launch.grid - launch.units * launch.parts < together


@given(heads)
def test_a_block_needs_no_more_memory_than_every_kernel_may_have(heads: Heads) -> None:
    stages = heads.warps * STAGES * 2 * 16 * heads.head_dim * 2
    partial = (heads.warps + 1) * 16 * (heads.head_dim + 2) * 4
    assert max(stages, partial) <= SHARED_BYTES


@given(heads, st.integers(1, 512), st.integers(1, 4096))
def test_the_launch_can_be_told_in_expressions(heads: Heads, batch: int, new: int) -> None:
    told = heads.launch(Expression(batch), Expression(new), 90)
    wanted = heads.launch(batch, new, 90)
    assert (told.units.value, told.parts.value, told.grid.value, told.threads) == (
        wanted.units,
        wanted.parts,
        wanted.grid,
        wanted.threads,
    )


def _compiled(defines: Mapping[str, object], capability: int) -> bytes:
    return compiled(plugin.__package__, SOURCE, defines, capability)


@pytest.mark.skipif(find_spec("cuda") is None, reason="NVRTC is not packaged for this machine")
@pytest.mark.parametrize(
    ("head_dim", "bfloat16", "capability"),
    [
        (16, True, 90),
        (64, False, 80),
        (64, True, 90),
        (64, False, 120),
        (80, False, 90),
        (128, True, 89),
        (256, False, 90),
    ],
)
def test_the_source_compiles_for_every_gpu(head_dim: int, bfloat16: bool, capability: int) -> None:
    heads = replace(HEADS, head_dim=head_dim, bfloat16=bfloat16)
    code = _compiled(heads.defines(capability), capability).decode()
    assert f".visible .entry {ENTRY}(" in code
    assert (".reqnctapercluster" in code or ".explicitcluster" in code) == (capability >= 90)
    assert ("mma.sync.aligned.m16n8k16.row.col.f32.bf16" in code) == bfloat16


@pytest.mark.skipif(find_spec("cuda") is None, reason="NVRTC is not packaged for this machine")
@pytest.mark.parametrize(("capped", "sinks"), [(True, False), (False, True)])
def test_a_cap_and_sinks_compile(capped: bool, sinks: bool) -> None:
    plain = _compiled(HEADS.defines(90), 90)
    assert _compiled(replace(HEADS, capped=capped, sinks=sinks).defines(90), 90) != plain


@pytest.mark.skipif(find_spec("cuda") is None, reason="NVRTC is not packaged for this machine")
def test_a_source_that_does_not_compile_says_why() -> None:
    with pytest.raises(CompilationFailed, match="HEAD_DIM"):
        _compiled({"BFLOAT16": 1, "CLUSTER": 1, "WARPS": 1}, 90)


def _attention(kv_heads: int, head_dim: int, scale: float | None) -> Node:
    attributes: tuple[tuple[str, Attribute], ...] = (
        *((("scale", scale),) if scale is not None else ()),
        ("kv_num_heads", kv_heads),
        ("context_shape", (0, -1, kv_heads * head_dim)),
        ("plugin_namespace", "pitcrew"),
        ("plugin_version", "1"),
    )
    return Node("PagedAttention", "paged", (), (Value("out"),), attributes, "llm")


@pytest.mark.parametrize(
    ("name", "head_dim", "scale", "is_offered"),
    [
        ("PagedAttention", 64, 0.125, True),
        ("PagedAttention", 72, 72**-0.5, False),
        ("PagedAttention", 288, 288**-0.5, False),
        ("PagedAttention", 64, 0.1, False),
        ("CappedPagedAttention", 64, None, True),
        ("SinkPagedAttention", 72, None, False),
        ("Int8PagedAttention", 64, 0.125, True),
    ],
)
def test_heads_that_the_kernel_does_not_know_keep_their_operators(
    name: str, head_dim: int, scale: float | None, is_offered: bool
) -> None:
    node = replace(_attention(2, head_dim, scale), op=name)
    graph = Graph("a", inputs=(), outputs=(), nodes=(node,), weights=(), literals=())
    (node,) = offered(graph).nodes
    assert (node.attribute("plugin_namespace") == "pitcrew") == is_offered
    assert node.attribute("kv_num_heads") == 2


@pytest.mark.parametrize("field", ["attention", "products"])
@pytest.mark.parametrize(("target", "capability"), [("tensorrt-rtx", "sm89"), ("tensorrt", "sm75")])
def test_a_kernel_is_refused_where_it_cannot_run(target: str, capability: str, field: str) -> None:
    document = {
        "source": {"kind": "local", "path": "/models/a", "name": "a"},
        "target": target,
        "precision": "fp16",
        "tensorrt": {"computeCapability": capability, field: "kernel"},
    }
    with pytest.raises(ValidationError, match=rf"tensorrt\.{field}.*set {field} to operators"):
        BuildSpec.model_validate(document)


@pytest.mark.skipif(find_spec("cuda") is None, reason="NVRTC is not packaged for this machine")
@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("PagedAttention", []),
        ("CappedPagedAttention", [described(), described()]),
        ("SinkPagedAttention", [described(), described(32)]),
    ],
)
def test_the_plugin_launches_what_the_shapes_ask_for(
    name: str, extra: list[TensorDesc], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Callable[..., object]] = {}
    for module, double in modules(known).items():
        monkeypatch.setitem(sys.modules, module, double)
    plugin.register.__wrapped__(90)

    signature = inspect.signature(known[f"pitcrew::{name}"])
    kinds = [parameter.annotation for parameter in signature.parameters.values()]
    assert kinds == [TensorDesc] * (7 + len(extra))
    tensors = [
        described(3, 1, 32 * 64),
        described(3, 1, 8 * 64),
        described(3, 1, 8 * 64),
        described(100, 16, 8, 64),
        described(100, 16, 8, 64),
        described(3, 20),
        described(3, 1, 1, 321),
    ]
    implement = known[f"pitcrew::{name} implemented"]
    entry, code, launch, sizes = implement(*tensors, *extra, (), 0)  # type: ignore[misc]
    assert entry == ENTRY
    assert ENTRY.encode() in code
    wanted = HEADS.launch(3, 1, 90)
    assert (launch.grid_x.value, launch.block_x) == (wanted.grid, wanted.threads)
    assert [size.value for size in sizes] == [wanted.units, 1, 20, wanted.parts]
