"""Predictions from a configuration alone, beside what engines turn out to be."""

import json
import re
from pathlib import Path

import pytest

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.cli import main
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.explain.anatomy import dissect
from pitcrew_builder.manifest import Manifest
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.plan.advise import Answer, answer
from pitcrew_builder.plan.gpus import GPUS, gpu_of
from pitcrew_builder.plan.spec import for_gpu
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import BuildSpec

ROOT = Path(__file__).parents[3]
GOLDENS = ROOT / "tests" / "golden" / "data"
SAMPLE = ROOT / "samples" / "models" / "tiny-kjv"

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def _spec(checkpoint: Path, **fields: object) -> BuildSpec:
    source = {"kind": "local", "path": str(checkpoint), "name": checkpoint.name}
    return BuildSpec.model_validate({"source": source, **fields})


def _built(spec: BuildSpec, tmp_path: Path) -> tuple[Path, Manifest]:
    store = tmp_path / "store"
    done = build(spec, Places(store, tmp_path / "cache"), Tracker(lambda _: None))
    engine = store / done.path
    return engine, Manifest.model_validate_json((engine / "manifest.json").read_bytes())


def _check(predicted: Answer, engine: Path, manifest: Manifest) -> None:
    sizes = {entry.path: entry.size for entry in manifest.files}
    for index, rank in enumerate(predicted.needs.ranks):
        stored = sizes[f"rank{index}/model.onnx.data"]
        assert rank.weights == pytest.approx(stored + _widening(engine, index), rel=0.02)
    ours = sum(size for path, size in sizes.items() if path.startswith("rank"))
    assert predicted.needs.engine_disk == pytest.approx(ours, rel=0.01)


def _widening(engine: Path, rank: int) -> int:
    """Bytes that halves take in memory beyond those on disk."""
    tensors = dissect((engine / f"rank{rank}" / "model.onnx").read_bytes()).tensors
    return sum(each.nbytes for each in tensors if each.type in ("bfloat16", "float16"))


@pytest.mark.parametrize(
    ("model", "split"),
    [
        ("llama3", {}),
        ("llama-tied", {"tensor": 2, "pipeline": 2}),
        ("mixtral", {"tensor": 2, "expert": 2}),
        ("gemma3", {"tensor": 2}),
        ("gpt-oss-mxfp4", {"pipeline": 2}),
        ("phi3", {}),
    ],
)
def test_weights_and_disk_are_what_is_built(
    model: str, split: dict[str, int], tmp_path: Path
) -> None:
    spec = _spec(GOLDENS / model, parallelism=split)
    predicted = answer(spec, Directory.of(GOLDENS / model))
    engine, manifest = _built(spec, tmp_path)
    _check(predicted, engine, manifest)
    assert predicted.needs.kv_per_token == manifest.kv_bytes_per_token


def test_adapter_slots_take_memory_of_every_rank() -> None:
    checkpoint = Directory.of(GOLDENS / "llama3")
    lora = {"maxAdapters": 3, "maxRank": 8}
    whole = answer(_spec(GOLDENS / "llama3", lora=lora), checkpoint).needs.ranks[0]
    # q, k, v, o, gate, up and down of 3 layers: hidden 64, 2 KV heads of 16, width 160.
    across = 128 + 96 + 96 + 128 + 224 + 224 + 224
    assert whole.adapters == 4 * 8 * 3 * across * 4
    without = answer(_spec(GOLDENS / "llama3"), checkpoint).needs.ranks[0]
    assert whole.fixed - without.fixed == whole.adapters
    split = answer(_spec(GOLDENS / "llama3", lora=lora, parallelism={"tensor": 2}), checkpoint)
    # Each rank has half of what is split: the inputs of A or the outputs of B.
    assert whole.adapters / 2 < split.needs.ranks[0].adapters < whole.adapters


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_narrow_weights_are_what_is_built(weights: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    texts = (SAMPLE / "heldout-text.txt").read_text().split("\n\f\n")[:2]
    prompts.write_text("".join(json.dumps({"text": text[:300]}) + "\n" for text in texts))
    spec = _spec(
        SAMPLE,
        shapes={"maxSequenceLength": 64, "maxBatchSize": 1},
        quantization={"weights": weights, "method": "round"},
        proof={"prompts": {"path": str(prompts)}, "maxPerplexityIncrease": "100"},
    )
    predicted = answer(spec, Directory.of(SAMPLE))
    engine, manifest = _built(spec, tmp_path)
    _check(predicted, engine, manifest)
    # What it is compared with stays in the cache, linked to where it lay beside the engine.
    compared = sum(
        file.stat().st_size for file in (tmp_path / "cache" / "unquantized").rglob("*.data")
    )
    assert manifest.quantization is not None
    codes = sum(matrix.bytes_after for matrix in manifest.quantization.matrices)
    assert compared > 10_000_000
    needed = predicted.needs
    assert needed.build_disk - needed.engine_disk == pytest.approx(compared + codes, rel=0.01)


def test_attention_that_is_not_fused_takes_its_scores() -> None:
    shapes = {"maxSequenceLength": 1024, "maxBatchSize": 1}
    cpu = answer(_spec(SAMPLE, shapes=shapes), Directory.of(SAMPLE)).needs.ranks[0]
    # 6 heads, 1,024 new tokens over as many, before and after the softmax.
    scores = 2 * 6 * 1024 * 1024 * 4
    assert scores < cpu.activations < 2 * scores
    options = {"computeCapability": "sm89", "prefillChunk": 1024}
    half = _spec(SAMPLE, shapes=shapes, target="tensorrt-rtx", precision="fp16", tensorrt=options)
    assert answer(half, Directory.of(SAMPLE)).needs.ranks[0].activations < scores / 2


def test_repeated_kv_heads_are_counted_on_every_rank() -> None:
    """Two KV heads on four ranks: each holds one, so a token takes twice the bytes."""
    checkpoint = Directory.of(GOLDENS / "llama3")
    whole = answer(_spec(GOLDENS / "llama3"), checkpoint).needs
    split = answer(_spec(GOLDENS / "llama3", parallelism={"tensor": 4}), checkpoint).needs
    # 2 x 3 layers x 2 heads x 16 elements x 4 bytes.
    assert whole.kv_per_token == 768
    assert split.kv_per_token == 2 * whole.kv_per_token


def _large(tmp_path: Path) -> Path:
    directory = tmp_path / "llama-70b"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA_70B))
    return directory


def test_capacity_is_the_arithmetic_of_memory(tmp_path: Path) -> None:
    directory, h100 = _large(tmp_path), gpu_of("H100")
    spec = _spec(directory, **for_gpu(h100, None), parallelism={"tensor": 4})
    room = answer(spec, Directory.of(directory), h100, average=1000)
    rank = room.needs.ranks[0]
    # Four ranks share 70.55e9 parameters of two bytes; tables and alignment are small.
    assert rank.weights == pytest.approx(70.55e9 * 2 / 4, rel=0.01)
    assert rank.kv_per_token == 2 * 80 * 2 * 128 * 2
    assert room.capacity is not None
    free = h100.memory - (1 << 30) - rank.weights - rank.activations
    assert room.capacity.pool == free * 8 // 10
    assert room.capacity.tokens == room.capacity.pool // rank.kv_per_token // 16 * 16
    assert room.capacity.full_sequences == min(32, room.capacity.tokens // 8192)
    assert room.capacity.sequences == 32
    read = rank.weights + 32 * 1000 * rank.kv_per_token
    assert room.capacity.tokens_per_second == 32 * h100.bandwidth // read


def test_what_does_not_fit_is_refused_with_what_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = _large(tmp_path)
    assert main(["plan", "--model", str(directory), "--gpu", "H100", "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["fits"] is False
    assert "131.42 GiB of weights" in told.err
    assert "nearest that fits: " in told.err
    assert "parallelism.tensor: 2" in told.err
    narrower = ["plan", "--model", str(directory), "--gpu", "H100", "--tensor-parallel", "2"]
    assert main([*narrower, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"]["fullSequences"] >= 1


def test_a_smaller_batch_is_advised_before_a_shorter_answer(tmp_path: Path) -> None:
    directory, l4 = _large(tmp_path), gpu_of("L4")
    shapes = {"maxBatchSize": 256, "maxSequenceLength": 65536}
    split = {"tensor": 8}
    spec = _spec(directory, **for_gpu(l4, None), parallelism=split, shapes=shapes)
    found = answer(spec, Directory.of(directory), l4)
    assert not found.fits
    assert found.advice[0].startswith("shapes.maxBatchSize: ")


@pytest.mark.parametrize(
    ("name", "product"),
    [
        ("h100", "H100"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H100-PCIe", "H100-PCIe"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
    ],
)
def test_products_are_found_by_their_node_labels(name: str, product: str) -> None:
    assert gpu_of(name).product == product


def test_an_unknown_product_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSpec, match="gpu 'K80' is not known; choose one of T4, A10"):
        gpu_of("K80")


def test_every_product_can_be_planned_for(tmp_path: Path) -> None:
    for gpu in GPUS.values():
        spec = _spec(SAMPLE, **for_gpu(gpu, None))
        found = answer(spec, Directory.of(SAMPLE), gpu)
        assert found.fits, gpu.product
        assert found.capacity is not None
        assert found.capacity.sequences == 32


def test_flags_ask_for_narrow_weights_without_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    def engine_disk(*flags: str) -> int:
        assert main(["plan", "--model", str(SAMPLE), "--json", *flags]) == 0
        size: int = json.loads(capsys.readouterr().out)["engineDiskBytes"]
        return size

    assert engine_disk("--weights", "int4") < engine_disk() / 2


def test_what_a_proof_runs_is_part_of_the_memory_of_a_build() -> None:
    def memory(batch: int, **fields: object) -> int:
        spec = _spec(SAMPLE, shapes={"maxBatchSize": batch}, **fields)
        return answer(spec, Directory.of(SAMPLE)).needs.build_ram

    narrow = {"weights": "int8", "calibration": {"path": "unread"}}
    # The caches of engine and reference alone, for prompts of 128 tokens.
    caches = 2 * (64 - 1) * 128 * answer(_spec(SAMPLE), Directory.of(SAMPLE)).needs.kv_per_token
    assert memory(64, quantization=narrow) - memory(1, quantization=narrow) > caches
    assert memory(64) == memory(1)


def test_slots_that_do_not_fit_are_advised_to_be_fewer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B | {"num_hidden_layers": 4}))
    checkpoint, t4 = Directory.of(tmp_path), gpu_of("T4")

    def planned(adapters: int, rank: int) -> Answer:
        room = {"maxAdapters": adapters, "maxRank": rank}
        return answer(_spec(tmp_path, **for_gpu(t4, None), lora=room), checkpoint, t4)

    refused = planned(200, 64)
    assert not refused.fits
    (told,) = (each for each in refused.advice if each.startswith("lora."))
    found = re.match(r"lora.maxAdapters: (\d+), lora.maxRank: (\d+) \(", told)
    assert found is not None
    adapters, rank = int(found[1]), int(found[2])
    assert planned(adapters, rank).fits
    assert not planned(2 * adapters, rank).fits


def test_a_named_target_is_planned_for_and_not_the_gpus_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["plan", "--model", str(SAMPLE), "--gpu", "L4", "--json"]
    assert main([*flags, "--target", "onnxruntime-cpu"]) == 0
    wide = json.loads(capsys.readouterr().out)["kvBytesPerToken"]
    assert main([*flags, "--weights", "int4", "--method", "round"]) == 0
    assert json.loads(capsys.readouterr().out)["kvBytesPerToken"] * 2 == wide == 3072


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--gpu", "K80"], "gpu 'K80' is not known; choose one of T4"),
        (["--gpu", ""], "gpu '' is not known"),
        (["--weights", "int3"], "quantization.weights: Input should be 'fp8', 'int8' or 'int4'"),
        (["--weights", "int8", "--method", "awq"], "method awq makes int4 weights, not int8"),
        (["--gpu", "T4", "--weights", "fp8"], "weights is fp8, which GPUs of sm75 do not know"),
        (["--gpu", "A10", "--kv-cache", "fp8"], "kvCache is fp8, which GPUs of sm86 do not know"),
        (
            ["--gpu", "H100", "--compute-capability", "sm89"],
            "computeCapability is sm89, and H100 is sm90, which does not run that plan",
        ),
        (["--average-length", "0"], "average length 0 is no number of tokens"),
        (["--gpu", "H100", "--average-length", "-5"], "average length -5 is no number of tokens"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_no_build_would_take_is_refused(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--model", str(SAMPLE), *flags]) == 2
    assert told in capsys.readouterr().err


def test_an_average_beyond_the_limit_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="average length 4096 is beyond maxSequenceLength 1024"):
        answer(_spec(SAMPLE), Directory.of(SAMPLE), gpu_of("H100"), average=4096)
