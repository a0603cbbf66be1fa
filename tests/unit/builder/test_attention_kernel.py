"""The attention kernel as far as a CPU can tell: sizes, its offer, its source, and its plugin."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pitcrew_builder.errors import CompilationFailed
from pitcrew_builder.graph.ir import Graph, Node, Value
from pitcrew_builder.spec import BuildSpec
from pitcrew_builder.targets.trt.attention import plugin
from pitcrew_builder.targets.trt.attention.launch import ENTRY, SHARED_BYTES, STAGES, Heads
from pitcrew_builder.targets.trt.attention.offer import offered
from pitcrew_builder.targets.trt.attention.ptx import compiled

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


@dataclass(frozen=True)
class Expression:
    """A size of TensorRT's: it stands on the left of an operator, an int or another on the right."""

    value: int

    def _with(self, other: "int | Expression", combine: Callable[[int, int], int]) -> "Expression":
        return Expression(combine(self.value, getattr(other, "value", other)))

    def __add__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__add__)

    def __sub__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__sub__)

    def __mul__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__mul__)

    def __floordiv__(self, other: "int | Expression") -> "Expression":
        return self._with(other, int.__floordiv__)

    def __lt__(self, other: "int | Expression") -> "Expression":
        return self._with(other, lambda one, two: int(one < two))

    def constant_value(self) -> int:
        return self.value


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
    code = compiled(heads.defines(capability), capability).decode()
    assert f".visible .entry {ENTRY}(" in code
    assert (".reqnctapercluster" in code or ".explicitcluster" in code) == (capability >= 90)
    assert ("mma.sync.aligned.m16n8k16.row.col.f32.bf16" in code) == bfloat16


@pytest.mark.skipif(find_spec("cuda") is None, reason="NVRTC is not packaged for this machine")
def test_a_source_that_does_not_compile_says_why() -> None:
    with pytest.raises(CompilationFailed, match="HEAD_DIM"):
        compiled({"WARPS": 1}, 90)


def _attention(kv_heads: int, head_dim: int, scale: float) -> Node:
    attributes = (
        ("scale", scale),
        ("kv_num_heads", kv_heads),
        ("context_shape", (0, -1, kv_heads * head_dim)),
        ("plugin_namespace", "pitcrew"),
        ("plugin_version", "1"),
    )
    return Node("PagedAttention", "paged", (), (Value("out"),), attributes, "llm")


@pytest.mark.parametrize(
    ("head_dim", "scale", "is_offered"),
    [(64, 0.125, True), (72, 72**-0.5, False), (288, 288**-0.5, False), (64, 0.1, False)],
)
def test_heads_that_the_kernel_does_not_know_keep_their_operators(
    head_dim: int, scale: float, is_offered: bool
) -> None:
    node = _attention(2, head_dim, scale)
    graph = Graph("a", inputs=(), outputs=(), nodes=(node,), weights=(), literals=())
    (node,) = offered(graph).nodes
    assert (node.attribute("plugin_namespace") == "pitcrew") == is_offered
    assert node.attribute("kv_num_heads") == 2


@pytest.mark.parametrize(("target", "capability"), [("tensorrt-rtx", "sm89"), ("tensorrt", "sm75")])
def test_the_kernel_is_refused_where_it_cannot_run(target: str, capability: str) -> None:
    document = {
        "source": {"kind": "local", "path": "/models/a", "name": "a"},
        "target": target,
        "precision": "fp16",
        "tensorrt": {"computeCapability": capability, "attention": "kernel"},
    }
    with pytest.raises(ValidationError, match=r"tensorrt\.attention.*set attention to operators"):
        BuildSpec.model_validate(document)


class TensorDesc(SimpleNamespace):
    def like(self) -> "TensorDesc":
        return self


def _described(*dims: int) -> TensorDesc:
    return TensorDesc(dtype="half", shape_expr=[Expression(dim) for dim in dims])


@pytest.mark.skipif(find_spec("cuda") is None, reason="NVRTC is not packaged for this machine")
def test_the_plugin_launches_what_the_shapes_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Callable[..., object]] = {}
    native = ModuleType("tensorrt.plugin")
    native.__dict__.update(
        TensorDesc=TensorDesc,
        KernelLaunchParams=SimpleNamespace,
        SymIntExprs=lambda count: [None] * count,
        SymInt32=lambda size: size,
        register=lambda name: lambda function: known.update({name: function}),
        aot_impl=lambda name: lambda function: known.update({f"{name} implemented": function}),
    )
    trt = ModuleType("tensorrt")
    trt.__dict__.update(plugin=native, float16="half", bfloat16="brain")
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", native)
    plugin.register.__wrapped__(90)

    signature = inspect.signature(known[plugin.NAME])
    kinds = [parameter.annotation for parameter in signature.parameters.values()]
    assert kinds == [TensorDesc] * 7
    tensors = [
        _described(3, 1, 32 * 64),
        _described(3, 1, 8 * 64),
        _described(3, 1, 8 * 64),
        _described(100, 16, 8, 64),
        _described(100, 16, 8, 64),
        _described(3, 20),
        _described(3, 1, 1, 321),
    ]
    implement = known[f"{plugin.NAME} implemented"]
    name, code, launch, extra = implement(*tensors, (), 0)  # type: ignore[misc]
    assert name == ENTRY
    assert ENTRY.encode() in code
    wanted = HEADS.launch(3, 1, 90)
    assert (launch.grid_x.value, launch.block_x) == (wanted.grid, wanted.threads)
    assert [size.value for size in extra] == [wanted.units, 1, 20, wanted.parts]
