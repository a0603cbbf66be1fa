"""Sound checkpoints in all the forms in which they are published."""

import json
import os
from pathlib import Path

import numpy as np

from pitcrew_builder.store import open_engine
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run

DATA = "rank0/model.onnx.data"


def _digest(engine: Path) -> str:
    return {entry.path: entry.sha256 for entry in open_engine(engine).files}[DATA]


def test_shards_and_one_file_give_the_same_weights(tmp_path: Path, run_build: Run) -> None:
    single = checkpoints.write(tmp_path / "single")
    sharded = checkpoints.write(tmp_path / "sharded", shards=3)
    assert _digest(run_build(single).engine) == _digest(run_build(sharded).engine)


def test_tensors_larger_than_a_chunk_are_whole(tmp_path: Path, run_build: Run) -> None:
    weights = checkpoints.tensors()
    rng = np.random.default_rng(3)
    vocab = 150_000
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = rng.standard_normal((vocab, 16), dtype=np.float32)
    build = run_build(checkpoints.write(tmp_path / "wide", weights, vocab_size=vocab))
    content = (build.engine / DATA).read_bytes()
    assert weights["model.embed_tokens.weight"].tobytes() in content
    assert weights["lm_head.weight"].tobytes() in content


def test_the_hub_caches_layout_is_followed(tmp_path: Path, run_build: Run) -> None:
    """Snapshots of links into the repository's blobs: links that stay inside are no escape."""
    repository = tmp_path / "models--acme--tiny"
    plain = checkpoints.write(tmp_path / "plain")
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in list(plain.iterdir()):
        (blobs / f"blob-{file.name}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    assert run_build(snapshot).code == 0
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(plain / "config.json")
    assert "leaves the checkpoint" in run_build(snapshot).failed.message


def test_older_configs_mean_the_same(tmp_path: Path, run_build: Run) -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    new = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}}
    old = {"rope_scaling": {"type": "llama3", **scaling}, "rope_theta": 5e5}
    builds = [
        run_build(checkpoints.write(tmp_path / name, max_position_embeddings=4096, **config))
        for name, config in (("new", new), ("old", old), ("plain", {}))
    ]
    digests = [_digest(build.engine) for build in builds]
    assert digests[0] == digests[1] != digests[2]


def test_buffers_of_older_writers_are_ignored(tmp_path: Path, run_build: Run) -> None:
    weights = checkpoints.tensors()
    weights["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    assert run_build(checkpoints.write(tmp_path / "llama2", weights)).code == 0


def test_a_tied_head_that_was_saved_twice_is_read_once(tmp_path: Path, run_build: Run) -> None:
    one = checkpoints.tensors()
    del one["lm_head.weight"]
    both = one | {"lm_head.weight": one["model.embed_tokens.weight"]}
    first = run_build(checkpoints.write(tmp_path / "both", both, tie_word_embeddings=True))
    second = run_build(checkpoints.write(tmp_path / "one", one, tie_word_embeddings=True))
    assert _digest(first.engine) == _digest(second.engine)


def test_null_in_a_config_is_absence(tmp_path: Path, run_build: Run) -> None:
    given = run_build(checkpoints.write(tmp_path / "given", head_dim=None, rope_scaling=None))
    assert open_engine(given.engine).model.head_dim == 4


def test_weights_are_aligned_and_kept_out_of_the_graph(tmp_path: Path, run_build: Run) -> None:
    import onnx

    weights = checkpoints.tensors()
    weights["model.embed_tokens.weight"] = np.ones((5000, 16), np.float32)
    weights["lm_head.weight"] = np.ones((5000, 16), np.float32)
    build = run_build(checkpoints.write(tmp_path / "wide", weights, vocab_size=5000))
    graph = build.engine / "rank0" / "model.onnx"
    assert graph.stat().st_size < 50_000
    model = onnx.load(graph, load_external_data=False)
    offsets = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert offsets
    assert all(offset % 4096 == 0 for offset in offsets)
    onnx.checker.check_model(graph, full_check=True)


def test_tokenizer_files_travel_with_the_engine(tmp_path: Path, run_build: Run) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    (checkpoint / "modeling_tiny.py").write_text("raise SystemExit")
    engine = run_build(checkpoint).engine
    assert (engine / "tokenizer" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert sorted(os.listdir(engine / "tokenizer")) == ["chat_template.jinja", "config.json"]
    assert json.loads((engine / "tokenizer" / "config.json").read_text())["vocab_size"] == 40
