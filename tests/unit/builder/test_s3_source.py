"""Checkpoints in object storage, against a real server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pitcrew_builder.report import FailureReason
from pitcrew_builder.s3.objects import Objects
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Build, Run
from tests.unit.builder.s3_server import S3Server


class Remote:
    """A checkpoint below `models/tiny` of a bucket, and builds from there."""

    def __init__(self, objects: Objects, checkpoint: Path, run: Run) -> None:
        self.objects = objects
        self.checkpoint = checkpoint
        self._run = run
        for file in checkpoint.iterdir():
            self.put(file.name, file.read_bytes())

    def put(self, name: str, content: bytes) -> None:
        self.objects.put(f"models/tiny/{name}", content)

    def drop(self, name: str) -> None:
        self.objects.delete([f"models/tiny/{name}"])

    def build(self) -> Build:
        address = self.objects.address
        return self._run(f"{address.url}/models/tiny", "--endpoint", str(address.endpoint))


@pytest.fixture
def remote(tmp_path: Path, s3: S3Server, run_build: Run) -> Remote:
    return Remote(s3.bucket(), checkpoints.write(tmp_path / "tiny", shards=3), run_build)


def test_it_is_the_same_engine_as_from_a_volume(remote: Remote, run_build: Run) -> None:
    remote.put("notes/unrelated.bin", b"not looked at")
    first = remote.build().succeeded
    assert not first.cached
    local = run_build(remote.checkpoint).succeeded
    assert local.cached
    assert local.engine_id == first.engine_id


def test_a_replaced_object_is_another_engine(remote: Remote) -> None:
    first = remote.build().succeeded
    config = remote.checkpoint / "config.json"
    document = json.loads(config.read_text()) | {"rms_norm_eps": 1e-5}
    remote.put("config.json", json.dumps(document).encode())
    assert remote.build().succeeded.engine_id != first.engine_id


def test_what_was_downloaded_is_not_downloaded_again(remote: Remote, tmp_path: Path) -> None:
    remote.build()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "s3").rglob("*.*")}
    assert len(files) >= 5
    assert remote.build().succeeded.cached
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_download_goes_on_where_a_killed_build_left_it(remote: Remote, tmp_path: Path) -> None:
    remote.build()
    (state,) = (tmp_path / "cache" / "s3").iterdir()
    shard = state / "model-00002-of-00003.safetensors"
    content = shard.read_bytes()
    shard.unlink()
    (state / f".{shard.name}.partial").write_bytes(content[:100])
    assert remote.build().succeeded.cached
    assert shard.read_bytes() == content
    assert not list(state.glob(".*.partial"))


def _pickles(remote: Remote) -> None:
    for number in range(1, 4):
        remote.drop(f"model-0000{number}-of-00003.safetensors")
    remote.drop("model.safetensors.index.json")
    remote.put("pytorch_model.bin", b"pickle")


def _index_out(remote: Remote) -> None:
    index = {"weight_map": {"x": "../../../etc/x.safetensors"}}
    remote.put("model.safetensors.index.json", json.dumps(index).encode())


@pytest.mark.parametrize(
    ("spoil", "reason", "told"),
    [
        (lambda r: r.drop("config.json"), FailureReason.CHECKPOINT_NOT_FOUND, "holds no config"),
        (
            lambda r: r.drop("model-00002-of-00003.safetensors"),
            FailureReason.CHECKPOINT_NOT_FOUND,
            "names model-00002-of-00003.safetensors, which is not there",
        ),
        (_pickles, FailureReason.CHECKPOINT_UNSAFE, "convert them to safetensors"),
        (_index_out, FailureReason.CHECKPOINT_UNSAFE, "weight_map names"),
    ],
)
def test_what_is_no_sound_checkpoint_is_refused(
    spoil: Callable[[Remote], None], reason: FailureReason, told: str, remote: Remote
) -> None:
    spoil(remote)
    build = remote.build()
    assert (build.failed.reason, build.failed.retryable) == (reason, False)
    assert told in build.failed.message
    assert build.visible() == []
