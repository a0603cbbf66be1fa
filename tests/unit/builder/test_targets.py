"""Targets: what a spec may ask of them, and the parts of plan building that need no compiler."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from pydantic import ValidationError

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.graph.collectives import all_gather
from pitcrew_builder.graph.emitter import Emitter
from pitcrew_builder.graph.ir import ElementType, Graph, Port
from pitcrew_builder.graph.precision import in_half
from pitcrew_builder.graph.proto import to_proto
from pitcrew_builder.manifest import Identity, ResolvedShapes
from pitcrew_builder.spec import BuildSpec, Target, TensorRt
from pitcrew_builder.targets import backend_of
from pitcrew_builder.targets.trt import plugins
from pitcrew_builder.targets.trt.collectives import with_native_collectives
from pitcrew_builder.targets.trt.kernels import (
    Launch,
    block_of,
    by_block,
    node_of,
    plain_name,
    programs,
    within,
)
from pitcrew_builder.targets.trt.library import Library
from pitcrew_builder.targets.trt.monitor import PhaseTree, monitor_for
from pitcrew_builder.targets.trt.profiles import profiles
from pitcrew_builder.targets.trt.timing_cache import timing_cache

SOURCE = {"kind": "local", "path": "/models/m", "name": "m"}
RTX = {
    "source": SOURCE,
    "target": "tensorrt-rtx",
    "precision": "fp16",
    "tensorrt": {"computeCapability": "sm89"},
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"precision": "fp32"}, "set precision to fp16"),
        ({"target": "onnxruntime-cpu"}, "set precision to fp32"),
        ({"tensorrt": None}, "set tensorrt.computeCapability"),
        ({"target": "onnxruntime-cpu", "precision": "fp32"}, "leave them out"),
        ({"tensorrt": {"computeCapability": "sm42"}}, "'sm89'"),
        ({"tensorrt": {"computeCapability": "sm89", "optimizationLevel": 6}}, "less than or equal"),
    ],
)
def test_a_spec_that_its_target_cannot_meet_is_refused(
    change: dict[str, object], told: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        BuildSpec.model_validate(RTX | change)
    assert told in str(refusal.value)


def test_every_target_has_a_backend() -> None:
    for target in Target:
        plain = {"source": SOURCE, "target": target}
        spec = BuildSpec.model_validate((RTX if target.compiles_plans else {}) | plain)
        assert backend_of(spec).proven


def test_only_what_decides_a_plan_is_part_of_its_identity() -> None:
    loud = TensorRt.model_validate(
        {"computeCapability": "sm90", "verbosity": "verbose", "timingCache": False}
    )
    quiet = TensorRt.model_validate({"computeCapability": "sm90"})
    assert loud.plan == quiet.plan
    assert "verbosity" not in loud.plan.model_dump()


def _identity(**changes: object) -> Identity:
    document = {
        "model": "m",
        "commit": "0" * 40,
        "inputs": {},
        "target": "onnxruntime-cpu",
        "precision": "fp32",
        "parallelism": {},
        "shapes": {"maxBatchSize": 1, "maxSequenceLength": 2, "kvPageSize": 1},
        "toolchain": {"onnxruntime": "1.32.0"},
        "builderVersion": "1",
    }
    return Identity.model_validate(document | changes)


def test_ids_of_cpu_engines_are_what_they_were() -> None:
    # Computed by the version that knew no other target.
    before = "82870d1982563f20f8e878aa38a858de5bcfd440ab7b72cb811a20256873ae71"
    assert _identity().engine_id == before
    assert _identity(tensorrt={"computeCapability": "sm89"}).engine_id != before


def test_tags_of_plans_tell_library_and_gpu() -> None:
    tools = {"cuda": "13", "tensorrt": "11.4.0", "tensorrt-rtx": "1.7.1"}
    capability = {"computeCapability": "sm90"}
    common = {"precision": "bf16", "toolchain": tools, "tensorrt": capability}
    assert _identity(target="tensorrt", **common).target_tag == "cuda13-trt11.4.0-sm90-bf16"
    assert _identity(target="tensorrt-rtx", **common).target_tag == "cuda13-rtx1.7.1-sm90-bf16"


def test_a_library_that_is_missing_says_how_to_get_it() -> None:
    absent = Library(
        Target.TENSORRT, "trt", ("no_such_module",), ("no-such-package",), "install it"
    )
    for ask in (absent.version, absent.load):
        with pytest.raises(InvalidSpec, match="no-such-package, which is not installed; install"):
            ask()


def test_profiles_cover_what_the_shapes_allow() -> None:
    e = Emitter("toy")
    e.input("input_ids", ElementType.INT64, "batch", "new")
    e.input("block_tables", ElementType.INT64, "batch", "blocks")
    e.input("logit_indices", ElementType.INT64, "batch", "wanted")
    e.input("rows.4", ElementType.FLOAT16, "rows", 64)
    e.input("key_pool.0", ElementType.FLOAT16, "pages", 16, 2, 8)
    shapes = ResolvedShapes(max_batch_size=4, max_sequence_length=100, kv_page_size=16)
    options = TensorRt.model_validate({"computeCapability": "sm89", "prefillChunk": 64})
    prefill, decode = profiles(e.graph().inputs, shapes, options)
    assert prefill.shapes["input_ids"] == ((1, 1), (1, 64), (4, 64))
    assert prefill.shapes["block_tables"] == ((1, 0), (1, 2), (4, 7))
    assert prefill.shapes["rows.4"] == ((1, 64), (64, 64), (256, 64))
    assert prefill.shapes["key_pool.0"][2] == (56, 16, 2, 8)
    assert decode.shapes["input_ids"] == ((1, 1), (2, 1), (4, 1))
    assert decode.shapes["logit_indices"][2] == (4, 1)
    for profile in (prefill, decode):
        for least, usual, most in profile.shapes.values():
            assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))


def test_nested_phases_are_one_fraction() -> None:
    tree = PhaseTree()
    tree.start("all", None, 4)
    assert tree.step("all", 0) == 0.25
    tree.start("inner", "all", 2)
    assert tree.step("inner", 0) == 0.375
    assert tree.step("inner", 1) == 0.5
    tree.finish("inner")
    assert tree.step("all", 3) == 1.0
    assert tree.step("unknown", 0) == 0.0


class _Native:
    """As much of the library as a monitor needs."""

    class IProgressMonitor:
        pass


def test_a_monitor_asks_to_stop_once_it_is_cancelled() -> None:
    seen: list[float] = []
    cancelled = Event()
    monitor = monitor_for(_Native, seen.append, cancelled)
    monitor.phase_start("all", None, 2)
    assert monitor.step_complete("all", 0)
    cancelled.set()
    assert not monitor.step_complete("all", 1)
    monitor.phase_finish("all")
    assert seen == [0.5, 1.0]


PLAN = b"""\x00binary
main {
 label bb1:
  shape_call={ name="shapes" layers="" }
  signal={ name="go" stream=0 layers="" }
  function={ name=__myl_Norm fqn=x layers="[ONNX Layer: layers.0/norm]
[ONNX Layer: embed]" swap_ab=false }
  fully_connected={ name="gemm" layers="[ONNX Layer: layers.0/up_proj]" }
  function={ name=__myl_Copy layers="" }
  function={ name=_mha layers="[ONNX Layer: attended | layers.1/paged (PagedAttention)]" }
}
\x00
main {
 label bb2:
  fully_connected={ name="candidate" layers="[ONNX Layer: layers.0/up_proj]" }
  add={ name="sum" layers="" }
}
"""


def test_kernels_are_read_from_a_plan(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(PLAN)
    (launches,) = programs(plan)
    assert [launch.kind for launch in launches] == [
        "function",
        "fully_connected",
        "function",
        "function",
    ]
    assert launches[0].nodes == ("layers.0/norm", "embed")
    assert {k: len(v) for k, v in by_block(launches).items()} == {"layers.0": 3, "layers.1": 1}


def test_a_plan_that_does_not_tell_has_no_kernels(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    for content in (b"", b"\x00\xff" * 100):
        plan.write_bytes(content)
        assert programs(plan) == []


def test_blocks_are_outermost_scopes() -> None:
    assert block_of("layers.3/mlp/silu") == "layers.3"
    assert block_of("attended | layers.1/paged (PagedAttention)") == "layers.1"
    assert block_of("embed") == ""
    assert node_of("[ONNX Layer: head/norm]") == "head/norm"
    assert node_of("") == ""
    assert Launch("function", "copy", ()).block == ""


def test_layers_that_are_computed_alike_are_told_alike() -> None:
    for layer in (1, 8, 9):
        block = f"layers.{layer}"
        assert within(f"{block}/silu", block) == "silu"
        assert within(f"layers.{layer + 1}/norm", block) == "next/norm"
        assert within(f"attended | {block}/paged (PagedAttention)", block) == "attended"
        joined = f"{block}/k_proj_U17{layer}+{block}/q_proj_U180"
        assert plain_name(joined, block) == "k_proj+q_proj"
    assert within("layers.10/norm", "layers.1") == "layers.10/norm"
    assert within("embed", "") == "embed"


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> memoryview:
        return memoryview(self.content + b"+")


class _Config:
    """A builder's configuration that refuses caches which begin with `old`."""

    def __init__(self) -> None:
        self.cache = _Cache(b"")

    def create_timing_cache(self, content: bytes) -> _Cache:
        return _Cache(content)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return ignore_mismatch or not cache.content.startswith(b"old")

    def get_timing_cache(self) -> _Cache:
        return self.cache


@pytest.mark.parametrize(("before", "after"), [(None, b"+"), (b"known", b"known+"), (b"old", b"+")])
def test_a_timing_cache_is_kept_between_builds(
    tmp_path: Path, before: bytes | None, after: bytes
) -> None:
    file = tmp_path / "deep" / "timing.cache"
    if before is not None:
        file.parent.mkdir()
        file.write_bytes(before)
    with timing_cache(_Config(), file):
        pass
    assert file.read_bytes() == after
    assert list(file.parent.iterdir()) == [file]


def test_a_failed_compilation_leaves_the_timing_cache_alone(tmp_path: Path) -> None:
    file = tmp_path / "timing.cache"
    with pytest.raises(KeyboardInterrupt), timing_cache(_Config(), file):
        raise KeyboardInterrupt
    assert not file.exists()


def _graph(draw: Callable[[Emitter], None]) -> Graph:
    e = Emitter("toy")
    draw(e)
    return e.graph()


def test_a_mask_in_half_precision_stays_finite_and_decisive() -> None:
    graph = _graph(lambda e: e.output(e.float(-1e30), "mask", ElementType.FLOAT32))
    for kind in (ElementType.FLOAT16, ElementType.BFLOAT16):
        value = float(in_half(graph, kind).literals[0].array)
        assert np.isfinite(value)
        assert value < -30000
        # Room for a score: the sum must not turn infinite.
        assert np.isfinite(np.float16(-32752) + np.float16(-1000))


def test_a_softmax_of_its_own_stays_in_float32() -> None:
    def draw(e: Emitter) -> None:
        scores = e.input("scores", ElementType.FLOAT32, 2, 4)
        e.output(e.op("Softmax", scores, axis=-1), "shares", ElementType.FLOAT32, 2, 4)

    half = in_half(_graph(draw), ElementType.FLOAT16)
    assert [node.op for node in half.nodes] == ["Cast", "Softmax", "Cast", "Identity"]
    assert half.outputs[0].type is ElementType.FLOAT16


def test_a_gather_is_a_sum_of_parts_between_zeros() -> None:
    def draw(e: Emitter) -> None:
        rows = e.input("rows", ElementType.FLOAT32, "n", 3)
        e.output(all_gather(e, rows, (4, 6)), "all", ElementType.FLOAT32, "n", 6)

    graph = with_native_collectives(_graph(draw), 6)
    spread, collective = graph.nodes[-3], graph.nodes[-2]
    assert (spread.op, collective.op) == ("Pad", "DistCollective")
    assert collective.attribute("groups") == (4, 6)
    cut = Graph(
        graph.name,
        graph.inputs,
        (Port(spread.outputs[0], ElementType.FLOAT32, ("n", 6)),),
        graph.nodes[:-2],
        graph.weights,
        graph.literals,
    )
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    (padded,) = ReferenceEvaluator(to_proto(cut, {}, "", {})).run(None, {"rows": rows})
    np.testing.assert_array_equal(padded, np.hstack([np.zeros((2, 3)), rows]))


def test_plugins_of_other_distributions_are_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pit_plugin.py").write_text(
        "def register(library):\n    library.creators.append('PagedAttention')\n"
    )
    dist = tmp_path / "pit_plugin-2.1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: pit-plugin\nVersion: 2.1\n")
    (dist / "entry_points.txt").write_text(
        f"[{plugins.GROUP}]\npaged-attention = pit_plugin:register\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    native = SimpleNamespace(creators=[], init_libnvinfer_plugins=lambda logger, namespace: True)
    plugins.register(native, logger=None)
    assert native.creators == ["PagedAttention"]
    assert plugins.versions() == {"plugin-paged-attention": "2.1"}


def test_no_compiler_is_loaded_before_it_is_needed() -> None:
    script = (
        "import sys, pitcrew_builder.targets.trt.backends as b; "
        "sys.exit(any(n.startswith(('tensorrt', 'onnxruntime')) for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
