"""Building from a hub: pinned, resumed, authenticated, and honest about what went wrong."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from pitcrew_builder.report import EXIT_RETRY, Failed, FailureReason, parse_outcome
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Build, Run
from tests.unit.builder.hub_server import COMMIT, Hub, serve

WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    root = checkpoints.write(tmp_path / "remote")
    (root / "README.md").write_text("not needed")
    (root / "pytorch_model.bin").write_text("never wanted")
    with serve(Hub(root)) as running:
        yield running


def _build(run_build: Run, hub: Hub, *flags: str, repo: str = "acme/tiny") -> Build:
    return run_build(repo, "--endpoint", hub.endpoint, *flags)


def _partial(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "hub" / "acme--tiny" / COMMIT / f".{WEIGHTS}.partial"


def test_builds_at_the_commit_with_only_the_files_needed(run_build: Run, hub: Hub) -> None:
    done = _build(run_build, hub, "--revision", "v1").succeeded
    assert (done.model, done.commit, done.cached) == ("acme/tiny", COMMIT, False)
    assert done.path.startswith(f"tiny/{COMMIT[:12]}/")
    assert sorted(hub.downloads()) == ["config.json", WEIGHTS]


def test_an_engine_in_the_store_needs_no_weights(tmp_path: Path, run_build: Run, hub: Hub) -> None:
    first = _build(run_build, hub).succeeded
    for file in sorted((tmp_path / "cache").rglob("*.safetensors")):
        file.unlink()
    hub.requests.clear()
    second = _build(run_build, hub).succeeded
    assert second.cached
    assert second.engine_id == first.engine_id
    assert hub.downloads() == []


def test_the_same_files_locally_and_remotely_are_different_models(run_build: Run, hub: Hub) -> None:
    remote, local = _build(run_build, hub), run_build(hub.root)
    assert remote.succeeded.engine_id != local.succeeded.engine_id
    assert remote.succeeded.commit == COMMIT


def test_shards_arrive_by_the_index(tmp_path: Path, run_build: Run, hub: Hub) -> None:
    (hub.root / WEIGHTS).unlink()
    checkpoints.write_weights(hub.root, checkpoints.tensors(), shards=3)
    assert _build(run_build, hub).succeeded.world_size == 1
    assert sum(name.endswith(".safetensors") for name in hub.downloads()) == 3


def test_a_download_resumes_where_a_killed_build_left_it(
    tmp_path: Path, run_build: Run, hub: Hub
) -> None:
    partial = _partial(tmp_path)
    partial.parent.mkdir(parents=True)
    partial.write_bytes((hub.root / WEIGHTS).read_bytes()[:1000])
    assert _build(run_build, hub).succeeded
    ranges = [given for _, path, given in hub.requests if path.endswith(WEIGHTS)]
    assert ranges == ["bytes=1000-"]


@pytest.mark.parametrize("left", [b"x" * 10, b"x" * 10**6])
def test_a_spoiled_partial_file_is_noticed_and_removed(
    left: bytes, tmp_path: Path, run_build: Run, hub: Hub
) -> None:
    partial = _partial(tmp_path)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    first = _build(run_build, hub)
    if len(left) == 10:
        assert first.failed.reason is FailureReason.CHECKPOINT_CORRUPT
        assert "another digest" in first.failed.message
        assert first.visible() == []
    assert not partial.exists()
    assert _build(run_build, hub).succeeded


def test_a_broken_connection_is_resumed_at_once(run_build: Run, hub: Hub) -> None:
    # The library hands on ten megabytes at a time.
    chunk = 10 << 20
    weights = checkpoints.tensors()
    weights["model.embed_tokens.weight"] = np.ones((200_000, 16), np.float32)
    weights["lm_head.weight"] = np.ones((200_000, 16), np.float32)
    checkpoints.write(hub.root, weights, vocab_size=200_000)
    hub.cut_after = chunk + 5
    assert _build(run_build, hub).succeeded
    ranges = [given for _, path, given in hub.requests if path.endswith(WEIGHTS)]
    assert ranges == [None, f"bytes={chunk}-"]


def test_a_wrong_digest_is_refused(tmp_path: Path, run_build: Run, hub: Hub) -> None:
    hub.lie = True
    build = _build(run_build, hub)
    assert build.failed.reason is FailureReason.CHECKPOINT_CORRUPT
    assert "another digest than the hub lists" in build.failed.message
    assert build.visible() == []


def test_a_token_opens_a_gated_repository(
    run_build: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    monkeypatch.delenv("HF_TOKEN", raising=False)
    refused = _build(run_build, hub)
    assert refused.failed.reason is FailureReason.CHECKPOINT_NOT_FOUND
    assert "HF_TOKEN" in refused.failed.message
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert _build(run_build, hub).succeeded


@pytest.mark.parametrize(
    ("repo", "flags", "told"),
    [
        ("acme/other", [], "check source.repo"),
        ("acme/tiny", ["--revision", "v9"], "no such revision"),
    ],
)
def test_what_does_not_exist_is_not_found(
    repo: str, flags: list[str], told: str, run_build: Run, hub: Hub
) -> None:
    build = _build(run_build, hub, *flags, repo=repo)
    assert build.failed.reason is FailureReason.CHECKPOINT_NOT_FOUND
    assert told in build.failed.message
    assert not build.failed.retryable


def test_a_hub_that_is_ill_is_worth_a_retry(run_build: Run, hub: Hub) -> None:
    hub.status = 500
    build = _build(run_build, hub)
    assert build.failed.reason is FailureReason.HUB_UNREACHABLE
    assert build.failed.retryable
    assert build.code == EXIT_RETRY


def test_a_hub_that_is_down_is_worth_a_retry(run_build: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        build = run_build("acme/tiny", "--endpoint", f"http://127.0.0.1:{port}")
    assert build.failed.reason is FailureReason.HUB_UNREACHABLE
    assert build.failed.retryable


def test_a_stalled_download_can_be_cancelled(tmp_path: Path, hub: Hub) -> None:
    hub.stall = Event()
    outcome = tmp_path / "outcome.json"
    command = [sys.executable, "-m", "pitcrew_builder.cli", "build", "--model", "acme/tiny"]
    where = ["--endpoint", hub.endpoint, "--store", tmp_path / "store", "--cache", tmp_path / "c"]
    arguments = [*command, *where, "--outcome", outcome, "--progress", "none"]
    with subprocess.Popen([str(item) for item in arguments]) as process:
        deadline = time.monotonic() + 60
        while WEIGHTS not in hub.downloads():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
    hub.stall.set()
    told = parse_outcome(outcome.read_text())
    assert isinstance(told, Failed)
    assert told.reason is FailureReason.CANCELLED
    assert code == EXIT_RETRY


@pytest.mark.parametrize("kind", ["pickle", "code", "path"])
def test_unsafe_repositories_are_refused_before_their_weights(
    kind: str, run_build: Run, hub: Hub
) -> None:
    if kind == "pickle":
        (hub.root / WEIGHTS).unlink()
    elif kind == "code":
        config = checkpoints.CONFIG | {"auto_map": {"AutoModel": "evil.Model"}}
        (hub.root / "config.json").write_text(json.dumps(config))
    else:
        index = {"weight_map": {"x": "../../../escape.safetensors"}}
        (hub.root / "model.safetensors.index.json").write_text(json.dumps(index))
    build = _build(run_build, hub)
    assert build.failed.reason is FailureReason.CHECKPOINT_UNSAFE
    assert not any(name.endswith((".safetensors", ".bin")) for name in hub.downloads())
