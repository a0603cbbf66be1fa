"""What a garbage collection keeps is decided without a store, a clock or a file."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.manifest import (
    Canary,
    GraphInterface,
    Identity,
    Manifest,
    ModelFacts,
    ResolvedShapes,
)
from pitcrew_builder.spec import Parallelism, Precision, Target
from pitcrew_builder.store.collect import Policy, judge
from pitcrew_builder.store.compare import differences
from pitcrew_builder.store.protocol import Kept

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FACTS = ModelFacts(
    architecture="llama", parameters=1, layers=1, hidden_size=2, attention_heads=1, kv_heads=1,
    head_dim=2, vocab_size=4, bos_token_id=None, eos_token_ids=(), pad_token_id=None,
)  # fmt: skip


def identity(model: str, batch: int = 1, ort: str = "1.32.0") -> Identity:
    return Identity(
        model=model,
        commit="0" * 40,
        inputs={"config.json": "a"},
        target=Target.ONNXRUNTIME_CPU,
        precision=Precision.FP32,
        parallelism=Parallelism(),
        shapes=ResolvedShapes(max_batch_size=batch, max_sequence_length=8, kv_page_size=1),
        toolchain={"onnxruntime": ort},
        builder_version="1",
    )


def engine(model: str, days: float, batch: int = 1, ort: str = "1.32.0") -> Kept:
    """An engine that was published so many days before `NOW`."""
    made = identity(model, batch, ort)
    manifest = Manifest(
        engine_id=made.engine_id,
        tag=made.tag,
        identity=made,
        model=FACTS,
        ranks=(GraphInterface(graph="rank0/model.onnx"),),
        canary=Canary(prompt=(1,), continuation=(1,)),
        files=(),
        timings={},
        created_at="2026-01-01T00:00:00+00:00",
    )
    return Kept(made.relative_path, manifest, NOW - timedelta(days=days))


def damaged(days: float) -> Kept:
    return Kept("a/b/c/0123456789ab", None, NOW - timedelta(days=days), "no JSON")


def removed(engines: Sequence[Kept], policy: Policy) -> list[Kept]:
    return [verdict.kept for verdict in judge(engines, policy, NOW) if verdict.remove]


def test_the_newest_of_each_model_and_target_stay() -> None:
    old = [engine("a", days, batch=days) for days in (10, 20, 30)]
    other_model, other_target = engine("b", 40), engine("a", 50, ort="1.31.0")
    everything = [*old, other_model, other_target]
    assert removed(everything, Policy(keep_last=2)) == [old[2]]
    assert removed(everything, Policy(keep_last=1)) == old[1:]
    assert removed(everything, Policy(keep_last=0)) == everything


def test_young_engines_stay() -> None:
    engines = [engine("a", days, batch=int(days)) for days in (1, 6, 8)]
    assert removed(engines, Policy(keep_last=0)) == [engines[2]]
    assert removed(engines, Policy(keep_last=0, older_than=timedelta(days=2))) == engines[1:]


@pytest.mark.parametrize("how", ["id", "beginning", "tag", "path"])
def test_what_is_referred_to_stays(how: str) -> None:
    wanted, other = engine("a", 100), engine("b", 100)
    assert wanted.manifest is not None
    names = {
        "id": wanted.manifest.engine_id,
        "beginning": wanted.manifest.engine_id[:8],
        "tag": wanted.manifest.tag,
        "path": wanted.path,
    }
    assert removed([wanted, other], Policy(keep=(names[how],), keep_last=0)) == [other]


def test_a_reference_that_is_a_slip_stops_everything() -> None:
    with pytest.raises(InvalidSpec, match="--keep-id feed fits no engine"):
        judge([engine("a", 100)], Policy(keep=("feed",)), NOW)


def test_a_whole_id_may_belong_to_another_store() -> None:
    gone = engine("a", 100)
    assert removed([gone], Policy(keep=("f" * 64,), keep_last=0)) == [gone]


def test_damaged_engines_keep_nobody_s_place_and_go_with_age() -> None:
    sound = engine("a", 100)
    assert removed([damaged(8), damaged(6), sound], Policy(keep_last=1)) == [damaged(8)]


def test_every_verdict_says_why() -> None:
    engines = [engine("a", days, batch=days) for days in (1, 10, 20)]
    told = [verdict.why for verdict in judge(engines, Policy(keep_last=1), NOW)]
    assert told == [
        "among the newest 1 of its model and target",
        "10 days old, not among the newest 1",
        "20 days old, not among the newest 1",
    ]


def test_identities_differ_by_name_of_the_field() -> None:
    found = differences(identity("a"), identity("a", batch=2, ort="1.31.0"))
    assert [(item.field, item.left, item.right) for item in found] == [
        ("shapes.maxBatchSize", "1", "2"),
        ("toolchain.onnxruntime", "1.32.0", "1.31.0"),
    ]
    assert differences(identity("a"), identity("a")) == ()
