"""Splits: which are refused and how, what ranks weigh, and that no rank passes for the whole."""

import json
from pathlib import Path

import onnxruntime
import pytest

from pitcrew_builder.cli import main
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.fit import Divisible, check_fit
from pitcrew_builder.manifest import Manifest
from pitcrew_builder.report import Failed, Succeeded, parse_outcome
from pitcrew_builder.spec import Parallelism
from tests.unit.builder import checkpoints

NETWORK = Divisible(layers=4, heads=12, kv_heads=3, features=(96,), vocabulary=1000)
MIXTURE = Divisible(layers=4, heads=8, kv_heads=8, features=(64,), vocabulary=1000, experts=6)


@pytest.mark.parametrize(
    ("network", "asked", "told"),
    [
        (NETWORK, {"tensor": 5}, "parallelism.tensor is 5, and the checkpoint has 12 attention"),
        (NETWORK, {"tensor": 5}, "choose one of 1, 3, 6, 12"),
        (NETWORK, {"tensor": 2}, "3 KV heads (num_key_value_heads)"),
        (NETWORK, {"pipeline": 5}, "parallelism.pipeline is 5, and the checkpoint has 4 layers"),
        (NETWORK, {"pipeline": 5}, "choose one of 1, 2, 3, 4"),
        (NETWORK, {"expert": 2}, "no experts: it is no mixture; choose one of 1"),
        (MIXTURE, {"expert": 4}, "6 experts, which do not divide evenly; choose one of 1, 2, 3, 6"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_with_those_that_do(
    network: Divisible, asked: dict[str, int], told: str
) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        check_fit(Parallelism(**asked), network)
    assert told in str(refusal.value)


def test_a_feed_forward_width_must_divide() -> None:
    network = Divisible(layers=1, heads=8, kv_heads=8, features=(64, 36), vocabulary=1000)
    with pytest.raises(InvalidSpec, match="width of 36"):
        check_fit(Parallelism(tensor=8), network)


def test_no_rank_is_left_without_tokens() -> None:
    network = Divisible(layers=1, heads=8, kv_heads=8, features=(64,), vocabulary=9)
    with pytest.raises(InvalidSpec, match="9 tokens"):
        check_fit(Parallelism(tensor=8), network)


def _build(tmp_path: Path, **spec: object) -> tuple[int, Succeeded | Failed]:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    outcome = tmp_path / "outcome.json"
    document = {"source": {"kind": "local", "path": str(checkpoint), "name": "tiny"}, **spec}
    places = ["--store", str(tmp_path / "store"), "--cache", str(tmp_path / "cache")]
    told = ["--outcome", str(outcome), "--progress", "none"]
    code = main(["build", "--spec-json", json.dumps(document), *places, *told])
    parsed = parse_outcome(outcome.read_text())
    assert parsed is not None
    return code, parsed


def _manifest(tmp_path: Path, done: Succeeded | Failed) -> tuple[Path, Manifest]:
    assert isinstance(done, Succeeded), done
    engine = tmp_path / "store" / done.path
    return engine, Manifest.model_validate_json((engine / "manifest.json").read_bytes())


def test_a_misfit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    code, failed = _build(tmp_path, parallelism={"tensor": 3})
    assert code == 2
    assert isinstance(failed, Failed)
    assert "choose one of 1, 2, 4" in failed.message
    assert not list((tmp_path / "store").rglob("rank*"))


def test_a_rank_alone_cannot_be_run(tmp_path: Path) -> None:
    """An executor without the collective refuses the graph; it does not leave the sum out."""
    _, done = _build(tmp_path, parallelism={"tensor": 2})
    engine, manifest = _manifest(tmp_path, done)
    assert manifest.world_size == 2
    with pytest.raises(Exception, match="AllReduce"):
        onnxruntime.InferenceSession(
            str(engine / manifest.ranks[0].graph), providers=["CPUExecutionProvider"]
        )


def test_ranks_say_what_they_hold(tmp_path: Path) -> None:
    _, done = _build(tmp_path, parallelism={"tensor": 2, "pipeline": 2})
    _, manifest = _manifest(tmp_path, done)
    places = [rank.placement for rank in manifest.ranks]
    held = [(p.first_layer, p.layers, p.first_kv_head, p.kv_heads) for p in places if p]
    assert held == [(0, 1, 0, 1), (0, 1, 1, 1), (1, 1, 0, 1), (1, 1, 1, 1)]
    # Embedding | attention | MLP, after each of which the ranks exchange.
    assert [len(rank.segments) for rank in manifest.ranks] == [4, 4, 4, 4]
    assert manifest.identity.target_tag.endswith("-tp2-pp2-fp32")
    listed = {entry.path for entry in manifest.files}
    assert {part.graph for rank in manifest.ranks for part in rank.segments} <= listed
