"""Every family in both precisions is a network of TensorRT: compiled here, for GPUs that are not."""

import json
import math
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.ir import ElementType
from pitcrew_builder.manifest import Manifest, ResolvedShapes
from pitcrew_builder.quantize.cache import even_reaches, narrow_cache
from pitcrew_builder.report import EXIT_RETRY, Failed, FailureReason
from tests.integration.builder.plans import (
    GOLDENS,
    ROOT,
    SAMPLE,
    Workshop,
    compile_rtx,
    llama,
    rtx,
)

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX has no wheels for this machine",
)


def _one_of_each_family() -> list[Path]:
    """The first golden of every `model_type` that we draw."""
    found: dict[str, Path] = {}
    for config in sorted(GOLDENS.glob("*/config.json")):
        family = json.loads(config.read_text())["model_type"]
        if family in FAMILIES:
            found.setdefault(family, config.parent)
    return list(found.values())


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("plans"))


@pytest.mark.parametrize(("precision", "capability"), [("fp16", "sm89"), ("bf16", "sm120")])
@pytest.mark.parametrize("checkpoint", _one_of_each_family(), ids=lambda path: path.name)
def test_every_family_compiles(
    workshop: Workshop, checkpoint: Path, precision: str, capability: str
) -> None:
    engine, manifest = workshop.publish(checkpoint, **rtx(precision, capability))
    interface = manifest.ranks[0]
    assert (engine / interface.graph).stat().st_size > 100_000
    assert interface.kv_dtype == {"fp16": "float16", "bf16": "bfloat16"}[precision]
    assert f"-{capability}-" in manifest.identity.target_tag
    assert manifest.identity.target_tag.endswith(precision)
    assert "not run" in manifest.proven


def test_every_family_has_a_golden() -> None:
    goldens = {
        json.loads((path / "config.json").read_text())["model_type"]
        for path in _one_of_each_family()
    }
    assert goldens == set(FAMILIES)


def test_a_plan_has_two_profiles_and_tells_its_kernels(workshop: Workshop) -> None:
    _, manifest = workshop.publish(GOLDENS / "llama3", **rtx())
    plan = manifest.ranks[0].plan
    assert plan is not None
    assert [profile.name for profile in plan.profiles] == ["prefill", "decode"]
    prefill, decode = (profile.shapes for profile in plan.profiles)
    assert prefill["input_ids"] == ((1, 1), (1, 64), (2, 64))
    assert decode["input_ids"] == ((1, 1), (1, 1), (2, 1))
    assert prefill["block_tables"][0] == (1, 0)
    layer = next(block for block in plan.blocks if block.block == "layers.1")
    assert len(layer.kernels) == 2
    assert all(0 < kernels < layer.operators / 2 for kernels in layer.kernels)
    assert layer.operators <= layer.layers
    for index, profile in enumerate(plan.profiles):
        told = [each for each in plan.kernels if each.profile == profile.name]
        launched = {block: len(each.launches) for each in told for block in each.blocks}
        counted = {block.block: block.kernels[index] for block in plan.blocks}
        assert launched == {block: count for block, count in counted.items() if count}
    computed = {node for each in plan.kernels for launch in each.launches for node in launch.nodes}
    assert {"o_proj", "gate_proj", "attended", "q_rope"} <= computed


def test_a_plan_tells_the_bytes_it_was_made_of(workshop: Workshop) -> None:
    _, manifest = workshop.publish(GOLDENS / "llama3", **rtx())
    plan, model = manifest.ranks[0].plan, manifest.model
    assert plan is not None
    halves = {each.part: 0 for each in plan.stored}
    for each in plan.stored:
        halves[each.part] += each.bytes if each.type == "float16" else 0
    assert sum(halves.values()) - halves["tables"] == 2 * model.parameters
    assert {each.layer for each in plan.stored} == {None, *range(model.layers)}


def test_what_decides_a_plan_decides_its_id(workshop: Workshop) -> None:
    llama = GOLDENS / "llama3"
    _, first = workshop.publish(llama, **rtx())
    _, again = workshop.publish(llama, **rtx(verbosity="error", timingCache=False))
    _, other = workshop.publish(llama, **rtx(prefillChunk=32))
    assert again.engine_id == first.engine_id
    assert other.engine_id != first.engine_id
    assert other.ranks[0].plan is not None
    assert other.ranks[0].plan.profiles[0].shapes["input_ids"][2] == (2, 32)


def test_an_engine_holds_the_plan_and_no_graph(workshop: Workshop) -> None:
    engine, manifest = workshop.publish(GOLDENS / "llama3", **rtx())
    assert [entry.path for entry in manifest.files if entry.path.startswith("rank")] == [
        "rank0/model.plan"
    ]
    assert not list(engine.rglob("*.onnx*"))
    assert not list((workshop.store / ".staging").iterdir())


@pytest.mark.parametrize(
    "split",
    [{"tensor": 2}, {"pipeline": 2}, {"tensor": 2, "pipeline": 2}],
    ids=lambda split: "-".join(f"{key}{value}" for key, value in split.items()),
)
def test_every_rank_of_a_split_network_compiles(
    workshop: Workshop, tmp_path: Path, split: dict[str, int]
) -> None:
    checkpoint = llama(tmp_path / "llama", heads=8, kv_heads=4)
    engine, manifest = workshop.publish(checkpoint, **rtx(), parallelism=split)
    assert [rank.graph for rank in manifest.ranks] == [
        f"rank{rank}/model.plan" for rank in range(manifest.world_size)
    ]
    assert manifest.world_size == math.prod(split.values())
    assert all((engine / rank.graph).is_file() for rank in manifest.ranks)
    layers = [
        {block.block for block in rank.plan.blocks if block.block.startswith("layers.")}
        for rank in manifest.ranks
        if rank.plan is not None
    ]
    stages = split.get("pipeline", 1)
    assert all(len(held) == 2 // stages for held in layers)


def test_every_rank_of_split_experts_compiles(workshop: Workshop) -> None:
    _, manifest = workshop.publish(GOLDENS / "mixtral", **rtx(), parallelism={"expert": 2})
    assert manifest.world_size == 2


@pytest.mark.parametrize("weights", ["int8", "int4", "fp8"])
def test_quantized_networks_compile(workshop: Workshop, tmp_path: Path, weights: str) -> None:
    _, manifest = _narrow(workshop, tmp_path, {"weights": weights}, **rtx())
    assert f"fp16-{weights}" in manifest.tag
    assert manifest.quantization is not None
    assert len(manifest.quantization.matrices) == 2 * 7
    assert manifest.proof is not None


@pytest.mark.parametrize(
    ("cache", "precision", "capability", "dtype"),
    [("int8", "fp16", "sm89", "int8"), ("fp8", "bf16", "sm120", "float8_e4m3fn")],
)
def test_narrow_caches_compile_on_every_rank(
    workshop: Workshop, tmp_path: Path, cache: str, precision: str, capability: str, dtype: str
) -> None:
    _, manifest = _narrow(
        workshop,
        tmp_path,
        {"kvCache": cache},
        **rtx(precision, capability),
        parallelism={"pipeline": 2},
    )
    assert manifest.tag.endswith(f"{precision}-kv{cache}")
    assert [rank.kv_dtype for rank in manifest.ranks] == [dtype] * 2
    # Keys and values of two layers, two heads of 16.
    assert manifest.kv_bytes_per_token == 2 * 2 * 2 * 16
    assert manifest.proof is not None


@pytest.mark.parametrize(("checkpoint", "kind"), [("gemma2", "int8"), ("gpt-oss", "float8_e4m3fn")])
def test_capped_scores_and_sinks_compile_over_codes(
    tmp_path: Path, checkpoint: str, kind: str
) -> None:
    raw = json.loads((GOLDENS / checkpoint / "config.json").read_text())
    family = FAMILIES[raw["model_type"]]
    shapes = ResolvedShapes(max_batch_size=2, max_sequence_length=64, kv_page_size=8)
    graph = family.graph(family.config.model_validate(raw), shapes)
    narrow = narrow_cache(graph, ElementType(kind), even_reaches(graph))
    written = compile_rtx(narrow, GOLDENS / checkpoint, shapes, tmp_path)
    assert written.interface.kv_dtype == kind
    assert written.files[0].size > 100_000


def _narrow(
    workshop: Workshop, tmp_path: Path, quantization: dict[str, object], **spec: object
) -> tuple[Path, Manifest]:
    text = (SAMPLE / "heldout-text.txt").read_text()
    for name, start in (("own", 0), ("heldout", 4000)):
        lines = [
            json.dumps({"text": text[at : at + 200]}) for at in range(start, start + 1200, 200)
        ]
        (tmp_path / name).write_text("\n".join(lines))
    quantization = {**quantization, "calibration": {"path": str(tmp_path / "own")}}
    proof = {"prompts": {"path": str(tmp_path / "heldout")}, "maxPerplexityIncreasePercent": "10"}
    checkpoint = llama(tmp_path / "llama", heads=4, kv_heads=2)
    return workshop.publish(checkpoint, **spec, quantization=quantization, proof=proof)


def test_ranks_with_fewer_heads_than_fused_attention_has_compile(
    workshop: Workshop, tmp_path: Path
) -> None:
    checkpoint = llama(tmp_path / "llama", heads=4, kv_heads=2)
    _, manifest = workshop.publish(checkpoint, **rtx(), parallelism={"tensor": 4})
    assert [rank.graph for rank in manifest.ranks] == [f"rank{i}/model.plan" for i in range(4)]


def test_a_gpu_that_the_library_does_not_know_is_refused(workshop: Workshop) -> None:
    outcome = workshop.build(GOLDENS / "llama3", **rtx(capability="sm90"))
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.INVALID_SPEC
    assert "computeCapability" in outcome.message
    assert "sm89" in outcome.message
    assert "target tensorrt" in outcome.message


def test_the_other_library_is_refused_where_it_is_not_installed(workshop: Workshop) -> None:
    if find_spec("tensorrt") or find_spec("tensorrt_bindings"):
        pytest.skip("TensorRT is installed here")
    outcome = workshop.build(
        GOLDENS / "llama3", **(rtx(capability="sm90") | {"target": "tensorrt"})
    )
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.INVALID_SPEC
    assert "tensorrt-cu13" in outcome.message
    assert "GPU" in outcome.message


def test_sigterm_cancels_a_compilation(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    shapes = {"shapes": {"maxBatchSize": 32, "maxSequenceLength": 1024}}
    arguments = workshop.arguments(SAMPLE, **rtx(), **shapes)
    command = [sys.executable, "-m", "pitcrew_builder.cli", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "compiling" in line:
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
        assert process.wait(timeout=60) == EXIT_RETRY
    outcome = workshop.outcome()
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.CANCELLED
    assert not [path for path in workshop.store.rglob("*") if path.is_file()]
