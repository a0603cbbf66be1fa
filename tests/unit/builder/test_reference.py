"""The unquantized network is written once for all recipes."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pitcrew_builder.checkpoint.safetensors import read_header
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.graph.ir import ElementType, Graph, Node, Port, Value, Weight
from pitcrew_builder.graph.recipe import Plus, Source, TensorRef
from pitcrew_builder.manifest import Identity, ResolvedShapes
from pitcrew_builder.progress import Tracker
from pitcrew_builder.reference import FOLDER, write_reference
from pitcrew_builder.spec import Parallelism, Precision, Target
from pitcrew_builder.targets.target import Network, Site

PLAIN = TensorRef("w", (64, 32))


def _write(network: Network, site: Site) -> None:
    write_reference(network, site, lambda: None)


def _network(file: Path, part: Source = PLAIN) -> Network:
    if not file.exists():
        save_file({"w": np.arange(2048, dtype=np.float32).reshape(64, 32)}, file)
    weight, keys = Weight(Value("w"), (part,)), Value("new_keys.0")
    node = Node("Identity", keys, (weight.name,), (keys,))
    port = Port(keys, ElementType.FLOAT32, weight.shape)
    graph = Graph("constant", (), (port,), (node,), (weight,), ())
    return Network(graph, read_header(file))


def _site(directory: Path, digest: str = "0" * 64) -> Site:
    scratch = directory / "scratch"
    scratch.mkdir(parents=True)
    identity = Identity(
        model="tiny",
        commit="0" * 40,
        inputs={"model.safetensors": digest},
        target=Target.ONNXRUNTIME_CPU,
        precision=Precision.FP32,
        parallelism=Parallelism(),
        shapes=ResolvedShapes(max_batch_size=1, max_sequence_length=8, kv_page_size=4),
        toolchain={"onnxruntime": "1"},
        builder_version="1",
    )
    tracker = Tracker(lambda _: None)
    return Site(directory / "engine", scratch, directory.parent / "cache", identity, tracker)


def _content(site: Site) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (site.scratch / FOLDER).iterdir()}


def test_another_recipe_needs_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    first, second = _site(tmp_path / "first"), _site(tmp_path / "second")
    network = _network(checkpoint)
    _write(network, first)
    checkpoint.unlink()
    _write(network, second)
    assert _content(first) == _content(second)


@pytest.mark.parametrize("differs", ["inputs", "recipe"])
def test_other_weights_are_read_and_only_the_last_are_kept(differs: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.safetensors"
    first = _site(tmp_path / "first")
    _write(_network(checkpoint), first)
    part = Plus(PLAIN, 1.0) if differs == "recipe" else PLAIN
    digest = ("1" if differs == "inputs" else "0") * 64
    other = _network(checkpoint, part)
    checkpoint.unlink()
    with pytest.raises(FileNotFoundError):
        _write(other, _site(tmp_path / "second", digest))
    third = _site(tmp_path / "third", digest)
    _write(_network(checkpoint, part), third)
    kept = list((tmp_path / "cache" / FOLDER).iterdir())
    assert len(kept) == 1
    assert {file.name: file.read_bytes() for file in kept[0].iterdir()} == _content(third)


def test_a_kept_network_that_is_not_whole_is_written_again(tmp_path: Path) -> None:
    network = _network(tmp_path / "model.safetensors")
    first, second = _site(tmp_path / "first"), _site(tmp_path / "second")
    _write(network, first)
    (kept,) = (tmp_path / "cache" / FOLDER).iterdir()
    (kept / "model.onnx.data").unlink()
    _write(network, second)
    assert _content(first) == _content(second)


def test_nothing_is_kept_of_a_checkpoint_that_changed(tmp_path: Path) -> None:
    def check_unchanged() -> None:
        raise CheckpointCorrupt("changed")

    network, site = _network(tmp_path / "model.safetensors"), _site(tmp_path / "first")
    with pytest.raises(CheckpointCorrupt):
        write_reference(network, site, check_unchanged)
    assert not (tmp_path / "cache" / FOLDER).exists()
