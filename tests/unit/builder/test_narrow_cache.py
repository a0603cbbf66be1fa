"""A narrow KV cache: its codes, its graph, its spec, and what is predicted of it."""

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.blocks.paged_codes import byte_values
from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.ir import ElementType, Graph
from pitcrew_builder.graph.precision import in_half
from pitcrew_builder.layout import Layout
from pitcrew_builder.manifest import Placement, QuantizationRecipe, ResolvedShapes
from pitcrew_builder.plan.advise import answer
from pitcrew_builder.quantize.cache import Reach, even_reaches, narrow_cache, steps
from pitcrew_builder.quantize.grid import Grid
from pitcrew_builder.report import Succeeded
from pitcrew_builder.spec import BuildSpec, CacheFormat, Parallelism
from tests.unit.builder.conftest import Run

GOLDENS = Path(__file__).parents[2] / "golden" / "data"
SAMPLE = Path(__file__).parents[3] / "samples" / "models" / "tiny-kjv"
SHAPES = ResolvedShapes(max_batch_size=2, max_sequence_length=64, kv_page_size=8)
KINDS = [ElementType.INT8, ElementType.FLOAT8]


def _graph(name: str, layout: Layout | None = None) -> Graph:
    raw = json.loads((GOLDENS / name / "config.json").read_text())
    family = FAMILIES[raw["model_type"]]
    config = family.config.model_validate(raw)
    return family.graph(config, SHAPES, *([layout] if layout else []))


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_what_calibration_saw_is_within_half_a_step(
    kind: ElementType, seed: int, size: float
) -> None:
    rng = np.random.default_rng(seed)
    seen = rng.standard_normal((20, 2, 8)).astype(np.float32) * 10**size
    worth = steps(np.abs(seen).max(axis=0), kind)
    codes = Grid(kind, 8).nearest(seen / worth)
    # E4M3 has eight steps from one power of two to the next, sixteenths of a number at most.
    half = worth / 2 if kind is ElementType.INT8 else np.maximum(np.abs(seen) / 16, worth * 2**-10)
    assert (np.abs(codes.astype(np.float32) * worth - seen) <= half * 1.001).all()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_their_inverses_stand_in_float16(kind: ElementType) -> None:
    """Whatever calibration saw: nothing at all, or one channel a million times another."""
    reach = np.array([[0.0] * 4, [1e-6, 1e3, 0.0, 1e-30]], np.float32)
    found = steps(reach, kind)
    for numbers in (found.astype(np.float16), (1 / found).astype(np.float16)):
        assert np.isfinite(numbers).all()
        assert (numbers >= np.finfo(np.float16).smallest_normal).all()


def test_bytes_mean_what_the_format_says() -> None:
    values = dict(zip(range(-128, 128), byte_values(), strict=True))
    assert (values[0], values[0x38], values[0x7E], values[0x38 - 128]) == (0.0, 1.0, 448.0, -1.0)
    # The two bytes that are no number must not spoil what a mask hides.
    assert values[0x7F] == values[-1] == 0.0
    codes = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert [values[code] for code in range(127)] == codes.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama3", "gemma2", "gpt-oss"])
def test_only_the_cache_and_its_readers_change(name: str, kind: ElementType) -> None:
    graph = _graph(name)
    narrow = in_half(narrow_cache(graph, kind, even_reaches(graph)), ElementType.FLOAT16)
    ports = {port.name: port for port in (*narrow.inputs, *narrow.outputs)}
    for port in (*graph.inputs, *graph.outputs):
        assert ports[port.name].shape == port.shape
        stored = "_pool." in port.name and ElementType.INT8
        new = port.name.startswith("new_") and kind
        if stored or new:
            assert ports[port.name].type is (stored or new)
    assert narrow.weights == in_half(graph, ElementType.FLOAT16).weights
    paged = {node.op for node in narrow.nodes if node.op.endswith("PagedAttention")}
    assert {function.name for function in narrow.functions} >= paged
    assert all(op.startswith(("Int8", "Fp8")) for op in paged)
    # No conversion inside of a function: see `paged_codes`.
    inside = {node.op for function in narrow.functions for node in function.nodes}
    assert not inside & {"QuantizeLinear", "DequantizeLinear"}


def test_a_rank_has_the_steps_of_its_own_heads() -> None:
    reach = Reach(np.arange(12.0, dtype=np.float32).reshape(4, 3), np.ones((4, 3), np.float32))
    place = Placement(
        tensor=1, pipeline=0, expert=0, first_layer=0, layers=1, first_kv_head=2, kv_heads=1
    )
    assert reach.heads(place).keys.tolist() == [[6.0, 7.0, 8.0]]
    assert reach.heads(None) is reach
    layout = replace(Layout(Parallelism(tensor=2)), tensor=1)
    split = _graph("llama3", layout)
    assert {found.keys.shape[0] for found in even_reaches(split).values()} == {1}


@pytest.mark.parametrize(
    ("quantization", "told"),
    [
        ({"kvCache": "int8"}, "kvCache int8 takes the ranges .* set calibration"),
        ({"kvCache": "fp4"}, "'fp8' or 'int8'"),
        ({"calibration": {"path": "/p"}}, "neither weights nor kvCache"),
        ({"kvCache": "int8", "method": "awq"}, "set weights, or leave method out"),
    ],
)
def test_bad_specs_are_refused(quantization: dict[str, object], told: str) -> None:
    source = {"kind": "local", "path": "x", "name": "x"}
    with pytest.raises(ValueError, match=told):
        BuildSpec.model_validate({"source": source, "quantization": quantization})


def test_fp8_is_refused_for_gpus_without_it() -> None:
    document = {
        "source": {"kind": "local", "path": "x", "name": "x"},
        "target": "tensorrt-rtx",
        "precision": "fp16",
        "tensorrt": {"computeCapability": "sm86"},
        "quantization": {"kvCache": "fp8", "calibration": {"path": "/p"}},
    }
    with pytest.raises(ValueError, match="kvCache is fp8, which GPUs of sm86 do not know"):
        BuildSpec.model_validate(document)
    document["quantization"] = {"kvCache": "int8", "calibration": {"path": "/p"}}
    BuildSpec.model_validate(document)


def test_a_narrow_cache_may_be_calibrated_for_many_ranks() -> None:
    quantization = {"kvCache": "int8", "calibration": {"path": "/p"}}
    source = {"kind": "local", "path": "x", "name": "x"}
    BuildSpec.model_validate(
        {"source": source, "parallelism": {"tensor": 2}, "quantization": quantization}
    )


def test_recipes_without_a_narrow_cache_keep_their_text() -> None:
    """The text is hashed: ids of older engines must not change."""
    recipe = QuantizationRecipe.model_validate(
        {"weights": "int4", "method": "awq", "blockSize": 128}
    )
    assert set(recipe.model_dump(mode="json", by_alias=True)) == {
        "weights",
        "method",
        "blockSize",
        "calibrationSha256",
    }
    assert recipe.tag == "int4-awq"
    narrow = recipe.model_copy(update={"kv_cache": CacheFormat.FP8})
    assert narrow.tag == "int4-awq-kvfp8"


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_build_is_what_was_predicted(kind: str, tmp_path: Path, run_build: Run) -> None:
    whole = (SAMPLE / "heldout-text.txt").read_text()
    lines = [whole[start : start + 400] for start in range(0, 10_000, 400)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"text": line}) for line in lines))
    sizes = ["--max-batch-size", "1", "--max-sequence-length", "64"]
    flags = ["--kv-cache", kind, "--calibration", str(prompts), *sizes]
    done = run_build(SAMPLE, *flags)
    assert isinstance(done.outcome, Succeeded)
    assert done.outcome.tag.endswith(f"fp32-kv{kind}")
    manifest = json.loads((done.engine / "manifest.json").read_text())
    ranges = manifest["quantization"]["kvCache"]
    assert [item["layer"] for item in ranges] == list(range(6))
    assert all(item["keys"] > 0 and item["values"] > 0 for item in ranges)

    spec = BuildSpec.model_validate(
        {
            "source": {"kind": "local", "path": str(SAMPLE), "name": "tiny-kjv"},
            "shapes": {"maxBatchSize": 1, "maxSequenceLength": 64},
            "quantization": {"kvCache": kind, "calibration": {"path": str(prompts)}},
        }
    )
    predicted = answer(spec, Directory.of(SAMPLE))
    sizes_of = {entry["path"]: entry["size"] for entry in manifest["files"]}
    # Matrices are halves on disk, and float32 in memory.
    assert predicted.needs.ranks[0].weights == pytest.approx(
        2 * sizes_of["rank0/model.onnx.data"], rel=0.02
    )
    assert predicted.needs.kv_per_token == done.outcome.kv_bytes_per_token == 2 * 6 * 2 * 32
    assert predicted.needs.engine_disk == pytest.approx(
        sum(size for path, size in sizes_of.items() if path.startswith("rank")), rel=0.01
    )
