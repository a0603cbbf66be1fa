"""Engines that keep their checkpoint's half precision: smaller, and the same numbers."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.explain.anatomy import dissect
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.progress import Tracker
from pitcrew_builder.targets.onnx_files import DATA
from pitcrew_builder.targets.onnxruntime_cpu import OnnxRuntimeCpu
from pitcrew_builder.targets.target import Network, Site
from tests.unit.builder import checkpoints
from tests.unit.builder.engines import Engine

HALVES = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]


def _weights(kind: np.dtype[Any]) -> checkpoints.Tensors:
    weights = checkpoints.tensors()
    rng = np.random.default_rng(5)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = rng.standard_normal((100, 16), dtype=np.float32)
    return {name: value.astype(kind) for name, value in weights.items()}


def _twins(root: Path, kind: np.dtype[Any], **spec: object) -> tuple[Engine, Engine]:
    """One engine of halves, and one of the same numbers in float32."""
    narrow = _weights(kind)
    wide = {name: value.astype(np.float32) for name, value in narrow.items()}
    first = checkpoints.write(root / "narrow", narrow, vocab_size=100)
    second = checkpoints.write(root / "wide", wide, vocab_size=100)
    return Engine(root / "a", first, **spec), Engine(root / "b", second, **spec)


def _types(engine: Engine, graph: str) -> dict[str, set[str]]:
    """By whether a tensor is a norm: the types of those in a layer or around."""
    tensors = dissect((engine.path / graph).read_bytes()).tensors
    found: dict[str, set[str]] = {"norms": set(), "matrices": set()}
    for tensor in tensors:
        if "model." in tensor.name or "lm_head" in tensor.name:
            found["norms" if "norm" in tensor.name else "matrices"].add(tensor.type)
    return found


@pytest.mark.parametrize("kind", HALVES)
def test_halves_stay_halves_and_compute_the_same(kind: np.dtype[Any], tmp_path: Path) -> None:
    narrow, wide = _twins(tmp_path, kind)
    graph = "rank0/model.onnx"
    assert _types(narrow, graph) == {"norms": {"float32"}, "matrices": {kind.name}}
    assert _types(wide, graph) == {"norms": {"float32"}, "matrices": {"float32"}}
    (found, tokens), (wanted, same) = narrow.logits(), wide.logits()
    np.testing.assert_array_equal(found, wanted)
    assert tokens == same
    assert narrow.manifest.canary == wide.manifest.canary


def test_every_segment_widens_its_own(tmp_path: Path) -> None:
    split = {"tensor": 2, "pipeline": 2}
    narrow, wide = _twins(tmp_path, HALVES[0], parallelism=split)
    for rank in narrow.manifest.ranks:
        for part in rank.segments:
            assert _types(narrow, part.graph)["matrices"] <= {"bfloat16"}
    np.testing.assert_array_equal(narrow.logits()[0], wide.logits()[0])


def _site(tmp_path: Path) -> tuple[Network, Site]:
    checkpoint = checkpoints.write(tmp_path / "tiny", _weights(HALVES[0]), vocab_size=100)
    family = FAMILIES["llama"]
    config = family.config.model_validate(checkpoints.CONFIG | {"vocab_size": 100})
    identity = Engine(tmp_path / "same", checkpoint).manifest.identity
    network = Network(family.graph(config, identity.shapes), read_tensors(Directory.of(checkpoint)))
    for name in ("engine", "scratch"):
        (tmp_path / name).mkdir()
    places = tmp_path / "engine", tmp_path / "scratch", tmp_path / "cache"
    return network, Site(*places, identity, Tracker(lambda _: None))


def test_the_proof_reads_what_was_written_and_not_the_checkpoint(tmp_path: Path) -> None:
    backend = OnnxRuntimeCpu()
    network, site = _site(tmp_path)
    written = backend.write(network, site)
    file = site.engine / site.folder / DATA
    content = bytearray(file.read_bytes())
    # The embedding is first: its numbers become infinite.
    content[:3200] = np.full(1600, np.inf, HALVES[0]).tobytes()
    file.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=r"model\.onnx\.data: tensor .*embed_tokens"):
        backend.proof(network, written, site)
