"""Narrow engines of the real sample model: proven before they are published, or not published."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pitcrew_builder.errors import ValidationFailed
from pitcrew_builder.explain.anatomy import dissect
from pitcrew_builder.explain.scores import score_rows
from pitcrew_builder.manifest import Manifest, ResolvedShapes, Score, ShortTexts
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.proof.gate import check
from pitcrew_builder.proof.plan import Case, cases, chunk
from pitcrew_builder.report import Succeeded
from pitcrew_builder.spec import BuildSpec, Proof
from tests.unit.builder.conftest import Run

SAMPLE = Path(__file__).parents[3] / "samples" / "models" / "tiny-kjv"


def _prompts(tmp_path: Path) -> dict[str, Any]:
    lines = (SAMPLE / "heldout-text.txt").read_text().split("\n")
    texts = [line[:300] for line in lines if len(line) > 100][:12]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return {"path": str(file)}


def _build(tmp_path: Path, document: dict[str, Any]) -> Succeeded:
    source = {"kind": "local", "path": str(SAMPLE), "name": "tiny-kjv"}
    shapes = {"maxBatchSize": 3, "maxSequenceLength": 256, "kvPageSize": 16}
    spec = BuildSpec.model_validate({"source": source, "shapes": shapes, **document})
    return build(spec, Places(tmp_path / "store", tmp_path / "cache"), Tracker(lambda _: None))


def _manifest(tmp_path: Path, done: Succeeded) -> Manifest:
    return Manifest.model_validate_json(
        (tmp_path / "store" / done.path / "manifest.json").read_text()
    )


@pytest.mark.parametrize(
    ("quantization", "smaller"),
    [
        ({"weights": "int8"}, 3),
        ({"weights": "int4"}, 5),
        ({"weights": "int4", "method": "awq"}, 5),
        ({"weights": "int4", "method": "gptq"}, 5),
        ({"weights": "fp8"}, 3),
    ],
)
def test_narrow_engines_are_proven_in_every_shape(
    tmp_path: Path, quantization: dict[str, Any], smaller: int
) -> None:
    given = {"quantization": {**quantization, "calibration": _prompts(tmp_path)}}
    # Rounding to int4 costs more than the default allows; the gate has a test of its own.
    done = _build(tmp_path, {**given, "proof": {"maxPerplexityIncrease": "8"}})
    manifest = _manifest(tmp_path, done)
    assert manifest.proof is not None
    assert manifest.quantization is not None
    assert {score.batch for score in manifest.proof.scores} == {1, 3}
    assert max(score.capacity for score in manifest.proof.scores) == 256
    assert all(score.top1_agreement > 0.7 for score in manifest.proof.scores)
    assert {score.batch for score in manifest.proof.served} == {1, 3}
    assert all(score.kl_divergence < 0.01 for score in manifest.proof.served)
    layers = [m for m in manifest.quantization.matrices if ".layers." in m.name]
    assert len(layers) == 6 * 4
    # The LM head goes with integers.
    heads = len(manifest.quantization.matrices) - len(layers)
    assert heads == (0 if quantization["weights"] == "fp8" else 1)
    before = sum(matrix.bytes_before for matrix in layers)
    assert sum(matrix.bytes_after for matrix in layers) * smaller < before
    assert done.proof is not None
    assert quantization["weights"] in done.tag


def test_the_first_layers_activations_are_not_rounded_to_fp8(tmp_path: Path) -> None:
    quantization = {"weights": "fp8", "method": "round", "calibration": _prompts(tmp_path)}
    done = _build(tmp_path, {"quantization": quantization})
    graph = (tmp_path / "store" / done.path / "rank0" / "model.onnx").read_bytes()
    rounded = {
        block: operators["QuantizeLinear"]
        for block, operators in dissect(graph).blocks.items()
        if "DequantizeLinear" in operators
    }
    assert rounded == {"layers.0": 0} | {f"layers.{layer}": 4 for layer in range(1, 6)}


def test_a_failed_gate_publishes_nothing_and_tells_the_figures(tmp_path: Path) -> None:
    asked = {
        "quantization": {"weights": "int4"},
        "proof": {
            "prompts": _prompts(tmp_path),
            "maxPerplexityIncrease": "0",
            "maxPerplexityIncreasePercent": "0.01",
            "maxKlDivergence": "0.0001",
        },
    }
    with pytest.raises(ValidationFailed, match=r"perplexity rises from .* KL divergence is"):
        _build(tmp_path, asked)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_found_engine_is_judged_by_the_new_thresholds(tmp_path: Path) -> None:
    quantization = {"weights": "int8"}
    proof = {"prompts": _prompts(tmp_path), "maxPerplexityIncrease": "9"}
    first = _build(tmp_path, {"quantization": quantization, "proof": proof})
    again = _build(tmp_path, {"quantization": quantization, "proof": proof})
    assert (again.cached, again.engine_id, again.proof) == (True, first.engine_id, first.proof)
    strict = {**proof, "maxKlDivergence": "0.000001"}
    with pytest.raises(ValidationFailed, match="KL divergence"):
        _build(tmp_path, {"quantization": quantization, "proof": strict})


def test_an_unquantized_engine_is_compared_with_a_plain_computation(tmp_path: Path) -> None:
    done = _build(tmp_path, {"proof": {"prompts": _prompts(tmp_path)}})
    proof = _manifest(tmp_path, done).proof
    assert proof is not None
    assert "without a cache" in proof.reference
    assert all(score.kl_divergence < 1e-6 for score in proof.scores)
    assert all(score.top1_agreement == 1 for score in proof.scores)


def test_the_command_line_quantizes_on_chats(tmp_path: Path, run_build: Run) -> None:
    file = Path(_prompts(tmp_path)["path"])
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    chats = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    file.write_text("\n".join(json.dumps(chat) for chat in chats))
    flags = ["--weights", "int8", "--calibration", str(file), "--max-batch-size", "1"]
    done = run_build(SAMPLE, *flags, "--max-sequence-length", "128").succeeded
    assert done.proof is not None
    assert done.proof.top1_agreement > 0.9
    assert any("short" in warning for warning in done.warnings)


def _score(before: float, after: float) -> Score:
    return Score(
        batch=1,
        capacity=16,
        tokens=9,
        perplexity=after,
        reference_perplexity=before,
        top1_agreement=0.9,
        kl_divergence=0.1,
    )


@pytest.mark.parametrize(("before", "after"), [(6, 6.5), (100, 102), (6, 5)])
def test_the_larger_allowance_counts(before: float, after: float) -> None:
    check((_score(before, after),), Proof())


@pytest.mark.parametrize(("before", "after"), [(6, 6.51), (100, 102.1), (6, float("nan"))])
def test_beyond_both_allowances_is_refused(before: float, after: float) -> None:
    with pytest.raises(ValidationFailed):
        check((_score(before, after),), Proof())


def test_every_bucket_and_every_capacity_is_measured() -> None:
    shapes = ResolvedShapes(max_batch_size=32, max_sequence_length=1024, kv_page_size=16)
    assert cases(shapes, 100) == (
        Case(1, 112),
        Case(4, 112),
        Case(16, 112),
        Case(32, 112),
        Case(1, 448),
        Case(1, 1024),
    )


def test_text_is_cut_so_that_pages_are_read() -> None:
    assert chunk(4, 100, 2048) == 50
    assert chunk(32, 512, 131_072) == 16


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"quantization": {"weights": "int8"}}, "proof.prompts"),
        ({"quantization": {"weights": "fp8"}}, "set calibration"),
        ({"quantization": {"weights": "int8", "method": "awq"}}, "int4"),
        ({"quantization": {"weights": "int4", "blockSize": 48}}, "128, 64, 32 or 16"),
        ({"proof": {}}, "proof.prompts"),
    ],
)
def test_specs_that_cannot_be_met_are_refused(document: dict[str, Any], told: str) -> None:
    source = {"kind": "local", "path": "x", "name": "x"}
    with pytest.raises(ValueError, match=told):
        BuildSpec.model_validate({"source": source, **document})


def test_prompts_are_measured_as_long_texts_too(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(SAMPLE, model)
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] |= {
        "rope_type": "longrope",
        "original_max_position_embeddings": 160,
        "short_factor": [1.0] * 16,
        "long_factor": [1.4] * 16,
        "attention_factor": 1.0,
    }
    (model / "config.json").write_text(json.dumps(config))
    quantization = {"weights": "int8", "calibration": _prompts(tmp_path)}
    asked = {
        "quantization": quantization,
        "source": {"kind": "local", "path": str(model), "name": "far"},
    }
    done = _build(tmp_path, asked)
    manifest = _manifest(tmp_path, done)
    assert manifest.model.short_texts == ShortTexts(up_to=160, first_position=256)
    assert manifest.proof is not None
    *short, long = manifest.proof.scores
    assert [score.long for score in (*short, long)] == [False] * len(short) + [True]
    assert (long.batch, long.tokens) == (short[0].batch, short[0].tokens)
    assert long.reference_perplexity > 1.05 * short[0].reference_perplexity
    assert long.kl_divergence < 0.1
    assert {score.batch for score in manifest.proof.served} == {1, 3}
    assert any("1 long" in row for row in score_rows(manifest.proof))
    wanted = Proof(max_kl_divergence="0.000001")
    with pytest.raises(ValidationFailed, match="batch 1, capacity 96, as long texts: KL"):
        check((long,), wanted)
