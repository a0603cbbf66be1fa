"""Every bad checkpoint ends in a refusal that says what to do, and leaves nothing in the store."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from pitcrew_builder.errors import CheckpointCorrupt, CheckpointNotFound
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.report import EXIT_REFUSED, FailureReason, Phase, Progress
from pitcrew_builder.spec import BuildSpec, LocalSource
from pitcrew_builder.store import STAGING, Store
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run

Break = Callable[[Path], object]
WEIGHTS = "model.safetensors"


def _config(**changes: object) -> Break:
    def apply(checkpoint: Path) -> None:
        file = checkpoint / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


def _header(change: Callable[[dict[str, Any]], None]) -> Break:
    return lambda checkpoint: checkpoints.rewrite_header(checkpoint / WEIGHTS, change)


def _tensors(change: Callable[[checkpoints.Tensors], object]) -> Break:
    def apply(checkpoint: Path) -> None:
        weights = checkpoints.tensors()
        change(weights)
        save_file(weights, checkpoint / WEIGHTS)

    return apply


def _set(name: str, value: npt.NDArray[Any]) -> Break:
    return _tensors(lambda weights: weights.update({name: value}))


def _poison(value: float) -> Break:
    def change(weights: checkpoints.Tensors) -> None:
        weights["lm_head.weight"][3, 5] = value

    return _tensors(change)


def _truncate(checkpoint: Path) -> None:
    file = checkpoint / WEIGHTS
    os.truncate(file, file.stat().st_size - 100)


def _append(checkpoint: Path) -> None:
    with (checkpoint / WEIGHTS).open("ab") as stream:
        stream.write(b"tail")


def _pickle_only(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "pytorch_model.bin")


def _no_weights(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).unlink()


def _linked_out(name: str) -> Break:
    def apply(checkpoint: Path) -> None:
        outside = checkpoint.parent / f"outside-{name}"
        (checkpoint / name).rename(outside)
        (checkpoint / name).symlink_to(outside)

    return apply


def _index(weight_map: dict[str, str]) -> Break:
    def apply(checkpoint: Path) -> None:
        file = checkpoint / "model.safetensors.index.json"
        file.write_text(json.dumps({"weight_map": weight_map}))

    return apply


def _write(name: str, text: str) -> Break:
    return lambda checkpoint: (checkpoint / name).write_text(text)


def _overlap(header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    first, second = sorted(names, key=lambda name: header[name]["data_offsets"])[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    header[second]["shape"] = header[first]["shape"]


def _reach_out(header: dict[str, Any]) -> None:
    header["lm_head.weight"]["data_offsets"] = [1 << 40, (1 << 40) + 40 * 16 * 4]


def _negative(header: dict[str, Any]) -> None:
    header["lm_head.weight"]["shape"] = [-40, -16]


CORRUPT = FailureReason.CHECKPOINT_CORRUPT
UNSAFE = FailureReason.CHECKPOINT_UNSAFE
NOT_FOUND = FailureReason.CHECKPOINT_NOT_FOUND
UNKNOWN = FailureReason.UNKNOWN_ARCHITECTURE
TOKENIZER = '{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":99},"unk_token":"a"}}'

CASES: dict[str, tuple[Break, FailureReason, str]] = {
    "truncated weights": (_truncate, CORRUPT, "cut off"),
    "bytes after the weights": (_append, CORRUPT, "cover"),
    "overlapping tensors": (_header(_overlap), CORRUPT, "overlap"),
    "tensor out of range": (_header(_reach_out), CORRUPT, "lm_head.weight"),
    "negative shape": (_header(_negative), CORRUPT, "lm_head.weight"),
    "unknown dtype": (
        _header(lambda h: h["lm_head.weight"].update(dtype="F3")), CORRUPT, "unknown dtype",
    ),
    "dtype of another width": (
        _header(lambda h: h["lm_head.weight"].update(dtype="F16")), CORRUPT, "needs 1280 bytes",
    ),
    "integer weights": (_set("lm_head.weight", np.zeros((40, 16), np.int32)), CORRUPT, "I32"),
    "not a number": (_poison(float("nan")), CORRUPT, "'lm_head.weight' holds NaN or infinity"),
    "infinity": (_poison(float("inf")), CORRUPT, "'lm_head.weight' holds NaN or infinity"),
    "a wrong shape": (
        _set("model.norm.weight", np.ones(17, np.float32)), CORRUPT,
        "model.norm.weight (config.json implies [16], found [17])",
    ),
    "a missing tensor": (_tensors(lambda w: w.pop("lm_head.weight")), CORRUPT, "1 tensors are missing"),
    "an unexpected tensor": (_set("extra", np.ones(3, np.float32)), CORRUPT, "unexpected: extra [3]"),
    "another depth in the config": (_config(num_hidden_layers=3), CORRUPT, "and 5 more"),
    "config that is no JSON": (_write("config.json", "{"), CORRUPT, "not JSON"),
    "config that is a list": (_write("config.json", "[]"), CORRUPT, "no JSON object"),
    "heads that do not divide": (_config(num_key_value_heads=3), CORRUPT, "no multiple"),
    "a negative size": (_config(hidden_size=-16), CORRUPT, "hidden_size"),
    "an endless depth": (_config(num_hidden_layers=10**9), CORRUPT, "num_hidden_layers"),
    "no config": (lambda c: (c / "config.json").unlink(), NOT_FOUND, "config.json"),
    "no weights": (_no_weights, NOT_FOUND, "model.safetensors"),
    "pickles only": (_pickle_only, UNSAFE, "pytorch_model.bin"),
    "remote code": (_config(auto_map={"AutoModel": "x.Y"}), UNSAFE, "AutoModel"),
    "weights linked out": (_linked_out(WEIGHTS), UNSAFE, "leaves the checkpoint"),
    "config linked out": (_linked_out("config.json"), UNSAFE, "leaves the checkpoint"),
    "an index with a path": (_index({"x": "../../etc/x.safetensors"}), UNSAFE, "weight_map names"),
    "an index of pickles": (_index({"x": "model.bin"}), UNSAFE, "weight_map names"),
    "an empty index": (_index({}), CORRUPT, "weight_map is missing or empty"),
    "an index of absent files": (_index({"x": "y.safetensors"}), NOT_FOUND, "y.safetensors"),
    "an unknown family": (_config(model_type="mamba"), UNKNOWN, "gpt_oss, granite, llama, mistral"),
    "no family": (_config(model_type=None), CORRUPT, "model_type"),
    "a quantized checkpoint": (
        _config(quantization_config={"quant_method": "bitsandbytes"}), UNKNOWN,
        "known are: awq (GEMM, 4 bits), gptq",
    ),
    "an unknown activation": (_config(hidden_act="mish"), UNKNOWN, "hidden_act"),
    "an unknown rope": (_config(rope_scaling={"type": "spiral"}), UNKNOWN, "rope_type"),
    "a rope without its factor": (_config(rope_scaling={"type": "linear"}), UNKNOWN, "factor"),
    "part of a head rotated": (
        _config(
            partial_rotary_factor=0.5,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        ),
        UNKNOWN,
        "partial_rotary",
    ),
    "ropes by layer kind": (
        _config(rope_parameters={"full_attention": {}}), CORRUPT, "other families",
    ),
    "a first token beyond the vocabulary": (_config(bos_token_id=40), CORRUPT, "token 40"),
    "a broken tokenizer": (_write("tokenizer.json", "{}"), CORRUPT, "tokenizer.json"),
    "a tokenizer of another vocabulary": (_write("tokenizer.json", TOKENIZER), CORRUPT, "99"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_checkpoints_are_refused(name: str, tmp_path: Path, run_build: Run) -> None:
    spoil, reason, told = CASES[name]
    checkpoint = checkpoints.write(tmp_path / "tiny")
    spoil(checkpoint)
    build = run_build(checkpoint)
    assert build.failed.reason is reason, build.failed
    assert told in build.failed.message
    assert not build.failed.retryable
    assert build.code == EXIT_REFUSED
    assert build.visible() == []


@pytest.mark.parametrize("cut", [1, 100, 10_000])
def test_one_truncated_shard_of_several_is_named(cut: int, tmp_path: Path, run_build: Run) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny", shards=3)
    shard = checkpoint / "model-00002-of-00003.safetensors"
    os.truncate(shard, max(0, shard.stat().st_size - cut))
    build = run_build(checkpoint)
    assert build.failed.reason is CORRUPT
    assert shard.name in build.failed.message
    assert (build.code, build.visible()) == (EXIT_REFUSED, [])


def test_a_missing_directory_is_not_found(tmp_path: Path, run_build: Run) -> None:
    build = run_build(tmp_path / "nowhere")
    assert build.failed.reason is NOT_FOUND
    assert "volume is mounted" in build.failed.message


def test_a_special_file_is_refused(tmp_path: Path, run_build: Run) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    (checkpoint / WEIGHTS).unlink()
    os.mkfifo(checkpoint / WEIGHTS)
    assert run_build(checkpoint).failed.reason is UNSAFE


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--max-sequence-length", "65"], "shapes.maxSequenceLength is 65, and the checkpoint"),
        (["--max-batch-size", "0"], "shapes.maxBatchSize"),
        (["--kv-page-size", "1000"], "shapes.kvPageSize"),
        (["--precision", "fp8"], "precision"),
    ],
)
def test_bad_specs_are_refused(flags: list[str], told: str, tmp_path: Path, run_build: Run) -> None:
    build = run_build(checkpoints.write(tmp_path / "tiny"), *flags)
    assert build.failed.reason is FailureReason.INVALID_SPEC
    assert told in build.failed.message
    assert build.code == EXIT_REFUSED


def test_large_finite_weights_are_no_infinity(tmp_path: Path, run_build: Run) -> None:
    """The cheap check sums; a sum that overflows must not condemn a sound tensor."""
    weights = checkpoints.tensors()
    # Scaled back to size by the norm that follows.
    weights["model.embed_tokens.weight"] = np.full((40, 16), 1e37, np.float32)
    weights["model.layers.0.input_layernorm.weight"][:] = 0
    build = run_build(checkpoints.write(tmp_path / "tiny", weights))
    assert "holds NaN" not in str(build.outcome)


def test_bf16_infinity_is_found(tmp_path: Path, run_build: Run) -> None:
    weights = {k: v.astype(ml_dtypes.bfloat16) for k, v in checkpoints.tensors().items()}
    weights["lm_head.weight"][0, 0] = float("inf")
    build = run_build(checkpoints.write(tmp_path / "tiny", weights))
    assert "'lm_head.weight' holds NaN or infinity" in build.failed.message


@pytest.mark.parametrize("phase", [Phase.PARSE, Phase.SERIALIZE, Phase.VALIDATE])
@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.unlink(),
        lambda file: save_file(dict(reversed(checkpoints.tensors(seed=8).items())), file),
    ],
    ids=["removed", "replaced"],
)
def test_a_checkpoint_that_changes_while_it_is_read_is_no_engine(
    phase: Phase, change: Break, tmp_path: Path
) -> None:
    """What was hashed names the engine; what was read may have been something else."""
    checkpoint = checkpoints.write(tmp_path / "tiny")
    changed = False

    def sink(progress: Progress) -> None:
        nonlocal changed
        if progress.phase is phase and not changed:
            changed = True
            change(checkpoint / WEIGHTS)

    spec = BuildSpec(source=LocalSource(path=str(checkpoint), name="tiny"))
    places = Places(tmp_path / "store", tmp_path / "cache")
    with pytest.raises((CheckpointCorrupt, CheckpointNotFound, FileNotFoundError)):
        build(spec, places, Tracker(sink))
    assert changed
    assert list(Store(tmp_path / "store").engines()) == []
    assert list((tmp_path / "store" / STAGING).glob("*")) == []
