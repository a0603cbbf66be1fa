"""Matrices made narrow by the builder: stacks of experts, and networks that are split over ranks."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tests.unit.builder import packed
from tests.unit.builder.engines import Engine

ROOT = Path(__file__).parents[3]
SAMPLE, GOLDENS = ROOT / "samples" / "models" / "tiny-kjv", ROOT / "tests" / "golden" / "data"
MODELS = {"llama": packed.LLAMA, "mixtral": packed.MIXTRAL}
METHODS = {
    "int8": {"weights": "int8"},
    "int4-round": {"weights": "int4", "method": "round"},
    "int4-awq": {"weights": "int4", "method": "awq"},
    "int4-gptq": {"weights": "int4", "method": "gptq"},
    "fp8": {"weights": "fp8"},
}

Build = Callable[..., Engine]


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a random network by a method, split or not, once."""
    root = tmp_path_factory.mktemp("narrow")
    text = (SAMPLE / "heldout-text.txt").read_text()
    for name, start in (("own", 0), ("heldout", 20_000)):
        lines = [
            json.dumps({"text": text[at : at + 400]}) for at in range(start, start + 8000, 400)
        ]
        (root / f"{name}.jsonl").write_text("\n".join(lines))

    @cache
    def make(model: str, method: str | None = None, samples: int = 12, **split: int) -> Engine:
        checkpoint = root / model / "plain"
        if not checkpoint.exists():
            packed.write(root / model, packed.awq(128), MODELS[model] | {"vocab_size": 2048})
            shutil.copy(SAMPLE / "tokenizer.json", checkpoint)
        if method is None:
            return Engine(root, checkpoint)
        calibration = {"path": str(root / "own.jsonl"), "samples": samples}
        proof = {
            "prompts": {"path": str(root / "heldout.jsonl"), "samples": 2},
            "maxPerplexityIncreasePercent": "1000",
        }
        return Engine(
            root,
            checkpoint,
            parallelism=split,
            quantization={**METHODS[method], "calibration": calibration},
            proof=proof,
            shapes={"maxBatchSize": 1, "maxSequenceLength": 128},
        )

    return make


SPLITS: list[tuple[str, str, dict[str, int]]] = [
    ("llama", "int4-awq", {"tensor": 2, "pipeline": 2}),
    ("llama", "fp8", {"tensor": 2}),
    ("mixtral", "int4-gptq", {"expert": 2}),
    ("mixtral", "int4-awq", {"tensor": 2}),
]


@pytest.mark.parametrize(("model", "method", "split"), SPLITS)
def test_ranks_together_compute_what_one_rank_does(
    model: str, method: str, split: dict[str, int], engine_of: Build
) -> None:
    whole, parts = engine_of(model, method), engine_of(model, method, **split)
    assert parts.manifest.world_size == np.prod(list(split.values()))
    wanted, likeliest = whole.logits()
    found, tokens = parts.logits()
    # A sum in another order may round an activation to the other of two neighbouring FP8 numbers.
    np.testing.assert_allclose(found, wanted, atol=0.05 if method == "fp8" else 1e-3)
    assert tokens == likeliest


@pytest.mark.parametrize("method", METHODS)
def test_stacks_of_experts_are_narrow(method: str, engine_of: Build) -> None:
    engine, plain = engine_of("mixtral", method), engine_of("mixtral")
    report: Any = engine.manifest.quantization
    errors = [matrix.relative_error for matrix in report.matrices if "experts" in matrix.name]
    assert len(errors) == 2 * 3
    assert max(errors) < (0.05 if method in ("int8", "fp8") else 0.2)
    share = 0.62 if method in ("int8", "fp8") else 0.5
    assert engine.manifest.size_bytes < share * plain.manifest.size_bytes
    assert not report.warnings or "experts" not in " ".join(report.warnings)


def _kl(engine: Engine) -> float:
    proof: Any = engine.manifest.proof
    kl: float = proof.worst.kl_divergence
    return kl


def test_experts_are_better_for_their_own_tokens(engine_of: Build) -> None:
    rounded = _kl(engine_of("mixtral", "int4-round"))
    assert _kl(engine_of("mixtral", "int4-awq")) < rounded
    assert _kl(engine_of("mixtral", "int4-gptq")) < rounded


def test_experts_that_saw_few_tokens_are_rounded_and_named(engine_of: Build) -> None:
    few: Any = engine_of("mixtral", "int4-gptq", samples=1).manifest.quantization
    told = [warning for warning in few.warnings if "experts" in warning]
    assert len(told) == 2 * 3
    assert "of 4 experts saw fewer than 128 tokens and are rounded" in told[0]


def _numbered(checkpoint: Path, target: Path, words: int) -> Path:
    """A golden checkpoint with a tokenizer whose words are the numbers of its vocabulary."""
    shutil.copytree(checkpoint, target)
    vocabulary = {str(number): number for number in range(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(target / "tokenizer.json"))
    return target


@pytest.mark.parametrize("name", ["gpt-oss", "gpt-oss-mxfp4", "qwen3-moe"])
def test_experts_of_every_kind_are_narrow(name: str, tmp_path: Path) -> None:
    checkpoint = _numbered(GOLDENS / name, tmp_path / name, words=256)
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, rng.integers(3, 256, 60))) for _ in range(2)]
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    (tmp_path / "prompts.jsonl").write_text(lines)
    engine = Engine(
        tmp_path,
        checkpoint,
        quantization={"weights": "int8"},
        proof={"prompts": {"path": str(tmp_path / "prompts.jsonl")}},
        shapes={"maxBatchSize": 1, "maxSequenceLength": 96},
        parallelism={"expert": 3 if name == "gpt-oss-mxfp4" else 2},
    )
    report: Any = engine.manifest.quantization
    assert sum(".experts." in matrix.name for matrix in report.matrices) == 2 * 3
    assert not any(".experts." in kept and kept.endswith(".weight") for kept in report.kept)
    proof: Any = engine.manifest.proof
    assert proof.worst.kl_divergence < 0.02
