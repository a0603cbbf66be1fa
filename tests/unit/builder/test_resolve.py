"""Naming an engine before it is built: exactly where the source tells digests, else a stand-in."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pitcrew_builder.cli import main
from pitcrew_builder.report import EXIT_REFUSED, Failed, FailureReason, Resolved, parse_resolution
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run
from tests.unit.builder.hub_server import COMMIT, Hub, serve
from tests.unit.builder.s3_server import S3Server

Resolve = Callable[..., Resolved | Failed | None]
TINY_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
H100 = ("--target", "tensorrt-rtx", "--compute-capability", "sm89", "--precision", "bf16")


@pytest.fixture
def resolve(tmp_path: Path) -> Resolve:
    """Run `pitcrew-build resolve`; its outcome."""

    def run(model: object, *flags: str) -> Resolved | Failed | None:
        outcome = tmp_path / "outcome.json"
        main(["resolve", "--model", str(model), "--cache", str(tmp_path / "looked"),
              "--outcome", str(outcome), *flags])  # fmt: skip
        return parse_resolution(outcome.read_text())

    return run


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve(Hub(checkpoints.write(tmp_path / "remote"))) as running:
        yield running


def resolved(found: Resolved | Failed | None) -> Resolved:
    assert isinstance(found, Resolved), found
    return found


def test_a_hub_tells_the_engine_that_a_build_makes(
    resolve: Resolve, run_build: Run, hub: Hub
) -> None:
    told = resolved(resolve("acme/tiny", "--endpoint", hub.endpoint))
    assert hub.downloads() == ["config.json"]
    built = run_build("acme/tiny", "--endpoint", hub.endpoint).succeeded
    assert (told.engine_id, told.key, told.tag) == (built.engine_id, built.engine_id, built.tag)
    assert told.commit == COMMIT


def test_a_volume_is_told_apart_without_its_weights_being_read(
    resolve: Resolve, tmp_path: Path
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    first = resolved(resolve(checkpoint))
    assert first.engine_id is None
    assert first.tag is None
    assert resolved(resolve(checkpoint)).key == first.key
    os.utime(checkpoint / "model.safetensors", ns=(1, 1))
    assert resolved(resolve(checkpoint)).key != first.key


def test_object_storage_is_told_apart_by_etags(
    resolve: Resolve, tmp_path: Path, s3: S3Server
) -> None:
    objects = s3.bucket()
    for file in checkpoints.write(tmp_path / "tiny").iterdir():
        objects.put(f"models/tiny/{file.name}", file.read_bytes())
    where = f"{objects.address.url}/models/tiny", "--endpoint", str(objects.address.endpoint)
    first = resolved(resolve(*where))
    assert not list(tmp_path.glob("looked/**/*.safetensors"))
    assert resolved(resolve(*where)).key == first.key
    objects.put("models/tiny/model.safetensors", b"something else")
    assert resolved(resolve(*where)).key != first.key


@pytest.mark.parametrize(
    "flags", [("--max-batch-size", "3"), ("--max-sequence-length", "32"), H100]
)
def test_what_decides_an_engine_decides_its_key(
    resolve: Resolve, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    assert resolved(resolve(checkpoint)).key != resolved(resolve(checkpoint, *flags)).key


def test_the_platform_is_part_of_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    document = {
        "source": {"kind": "local", "path": str(checkpoint), "name": "tiny"},
        "target": "tensorrt-rtx",
        "precision": "fp16",
        "tensorrt": {"computeCapability": "sm89"},
    }
    keys = set()
    for driver in (None, "575", "580"):
        platform = {"gpuProduct": "NVIDIA-L4", "driver": driver, "cuda": "13.0"}
        spec = document | ({"platform": platform} if driver else {})
        main(["resolve", "--spec-json", json.dumps(spec), "--cache", str(tmp_path / "cache")])
        keys.add(json.loads(capsys.readouterr().out)["key"])
    assert len(keys) == 3


def test_gpus_that_are_too_small_are_told_in_figures_with_what_would_fit(
    resolve: Resolve, tmp_path: Path
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    (checkpoint / "config.json").write_text(json.dumps(TINY_70B))
    product = ("--gpu", "NVIDIA-H100-80GB-HBM3", "--gpu-memory", str(81559 << 20))
    told = resolved(resolve(checkpoint, *H100, *product))
    assert told.misfit is not None
    assert "NVIDIA-H100-80GB-HBM3 (79.65 GiB each)" in told.misfit
    assert "parallelism.tensor: 2" in told.misfit
    assert told.prediction.rank_weight_bytes > 81559 << 20
    split = resolved(resolve(checkpoint, *H100, *product, "--tensor-parallel", "2"))
    assert split.misfit is None
    assert split.world_size == 2


def test_a_product_that_no_table_knows_is_judged_by_its_memory(
    resolve: Resolve, tmp_path: Path
) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    roomy = resolve(checkpoint, *H100, "--gpu", "Prototype", "--gpu-memory", str(8 << 30))
    tight = resolve(checkpoint, *H100, "--gpu", "Prototype", "--gpu-memory", str(1 << 30))
    assert resolved(roomy).misfit is None
    assert resolved(tight).misfit is not None


def test_what_cannot_be_built_is_refused_as_a_build_refuses_it(tmp_path: Path) -> None:
    outcome = tmp_path / "outcome.json"
    code = main(["resolve", "--model", str(tmp_path / "absent"), "--outcome", str(outcome)])
    found = parse_resolution(outcome.read_text())
    assert code == EXIT_REFUSED
    assert isinstance(found, Failed)
    assert found.reason is FailureReason.CHECKPOINT_NOT_FOUND
