"""Adapters on their way from a directory to the graph's slots."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_dtypes import bfloat16

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.manifest import LoraTarget
from pitcrew_runtime.adapters.library import AdapterLibrary
from pitcrew_runtime.adapters.reading import read_adapter, within
from pitcrew_runtime.adapters.weights import LoraWeights, LowRank, Room
from pitcrew_runtime.errors import (
    AdapterConflict,
    InvalidAdapter,
    InvalidRequest,
    ModelNotFound,
)
from pitcrew_runtime.execution.adapter_pool import AdapterPool
from tests.unit.runtime.peft import SHAPES, Q, V, pair, save

ROOM = Room(max_adapters=2, max_rank=4, shapes=SHAPES)
A, B = f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight"


def read(directory: Path) -> LoraWeights:
    return read_adapter(Directory.of(directory), ROOM)


@pytest.mark.parametrize(("rslora", "factor"), [(False, 6 / 4), (True, 6 / 4**0.5)])
def test_scaling_is_in_the_numbers(tmp_path: Path, rslora: bool, factor: float) -> None:
    tensors = pair(Q, 4)
    weights = read(save(tmp_path / "x", tensors, lora_alpha=6, use_rslora=rslora))
    np.testing.assert_array_equal(weights.changes[Q].down, tensors[A])
    np.testing.assert_allclose(weights.changes[Q].up, tensors[B] * factor, rtol=1e-6)


def test_every_module_has_a_rank_and_an_alpha_of_its_own(tmp_path: Path) -> None:
    tensors = pair(Q, 1) | pair(V, 3)
    weights = read(save(tmp_path / "x", tensors, lora_alpha=3, alpha_pattern={"q_proj": 5}))
    np.testing.assert_allclose(weights.changes[Q].up, tensors[B] * 5, rtol=1e-6)
    assert (weights.changes[Q].rank, weights.changes[V].rank) == (1, 3)


@pytest.mark.parametrize("kind", [np.float16, bfloat16])
def test_narrow_files_are_read(tmp_path: Path, kind: type) -> None:
    tensors = {name: tensor.astype(kind) for name, tensor in pair(Q, 2).items()}
    change = read(save(tmp_path / "x", tensors)).changes[Q]
    np.testing.assert_array_equal(change.down, tensors[A].astype(np.float32))


def test_an_adapter_is_named_by_its_numbers(tmp_path: Path) -> None:
    one = read(save(tmp_path / "one", pair(Q, 2)))
    same = read(save(tmp_path / "same", pair(Q, 2), task_type="CAUSAL_LM"))
    stronger = read(save(tmp_path / "stronger", pair(Q, 2), lora_alpha=3))
    other = read(save(tmp_path / "other", pair(Q, 2, seed=1)))
    assert one.identity == same.identity
    assert len({one.identity, stronger.identity, other.identity}) == 3


Spoil = Callable[[dict[str, np.ndarray]], object]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.update({A: np.ones((2, 7), np.float32)}), r"A \[2, 7\].*matrix is \[6, 8\]"),
        (lambda t: t.update({B: np.ones((5, 2), np.float32)}), r"B \[5, 2\].*matrix is \[6, 8\]"),
        (lambda t: t.update({B: np.ones((6, 3), np.float32)}), r"A \[2, 8\] and B \[6, 3\]"),
        (lambda t: t.update(pair(Q, 5)), r"rank 5.*room for 4.*maxRank: 5"),
        (lambda t: t.pop(B), "lora_A alone"),
        (lambda t: t.update({A.replace("q_proj", "o_proj"): t[A]}), r"o_proj.*q_proj, v_proj"),
        (lambda t: t.update({A.replace(".0.", ".1."): t[A]}), r"changes model\.layers\.1\."),
        (lambda t: t.update({"base_model.model.lm_head.weight": t[A]}), "modules_to_save"),
        (lambda t: t.update({f"base_model.model.{Q}.bias": t[A]}), "trained biases"),
        (lambda t: t.update({A: t[A].astype(np.int32)}), "is I32"),
        (lambda t: t[A].fill(np.inf), "NaN or infinite"),
        (lambda t: t.clear(), "holds no tensors"),
    ],
)
def test_what_the_engine_cannot_serve_is_refused(tmp_path: Path, spoil: Spoil, told: str) -> None:
    tensors = pair(Q, 2)
    spoil(tensors)
    with pytest.raises(InvalidAdapter, match=told) as refused:
        read(save(tmp_path / "x", tensors))
    assert refused.value.param == "lora_path"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("target_parameters", ["mlp.experts.down_proj"]),
        ("peft_type", "IA3"),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "olora"),
    ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(InvalidAdapter, match=field):
        read(save(tmp_path / "x", pair(Q, 2), **{field: value}))


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    place = save(tmp_path / "x", pair(Q, 2))
    (place / "adapter_model.safetensors").rename(place / "adapter_model.bin")
    with pytest.raises(InvalidAdapter, match="pickle"):
        read(place)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    place = save(tmp_path / "x", pair(Q, 2))
    file = place / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(InvalidAdapter, match="cut off"):
        read(place)


def test_only_directories_under_the_root_are_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    save(root / "team" / "x", pair(Q, 2))
    save(tmp_path / "secret", pair(Q, 2))
    (root / "link").symlink_to(tmp_path / "secret")
    assert within(root, "team/x").path == root / "team" / "x"
    assert within(root, str(root / "team" / "x")).path == root / "team" / "x"
    for path in ("../secret", str(tmp_path / "secret"), "link", "none", "team/x/../../..", "\0"):
        with pytest.raises(InvalidAdapter, match="no directory under --lora-root"):
            within(root, path)


def test_files_that_lead_out_of_the_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    place, secret = save(root / "x", pair(Q, 2)), save(tmp_path / "secret", pair(Q, 2))
    (place / "adapter_model.safetensors").unlink()
    (place / "adapter_model.safetensors").symlink_to(secret / "adapter_model.safetensors")
    with pytest.raises(InvalidAdapter, match="leaves the checkpoint"):
        read_adapter(within(root, "x"), ROOM)


@pytest.fixture
def library() -> AdapterLibrary:
    return AdapterLibrary(ROOM, capacity=2, base="base")


def test_names_come_and_go(library: AdapterLibrary, tmp_path: Path) -> None:
    place = Directory.of(save(tmp_path / "x", pair(Q, 2)))
    loaded = library.load("x", place)
    assert library.find("x") is loaded.weights
    assert [one.name for one in library.loaded] == ["x"]
    library.unload("x")
    assert library.find("x") is None
    with pytest.raises(ModelNotFound, match="'x' is not loaded"):
        library.unload("x")


def test_a_name_means_one_adapter(library: AdapterLibrary, tmp_path: Path) -> None:
    first = Directory.of(save(tmp_path / "x", pair(Q, 2)))
    second = Directory.of(save(tmp_path / "y", pair(Q, 2, seed=1)))
    loaded = library.load("x", first)
    assert library.load("x", first) is loaded, "once more changes nothing"
    with pytest.raises(AdapterConflict, match=r"loaded already.*load_inplace"):
        library.load("x", second)
    replaced = library.load("x", second, replace=True)
    assert replaced.weights.identity != loaded.weights.identity
    assert library.find("x") is replaced.weights


def test_memory_is_bounded_by_what_is_alive(library: AdapterLibrary, tmp_path: Path) -> None:
    places = [Directory.of(save(tmp_path / str(n), pair(Q, 2, seed=n))) for n in range(3)]
    held = library.load("0", places[0]).weights
    library.load("1", places[1])
    with pytest.raises(AdapterConflict, match=r"2 adapters are in memory \(2 have a name"):
        library.load("2", places[2])
    library.unload("0")
    with pytest.raises(AdapterConflict, match="the others still answer"):
        library.load("2", places[2])
    del held
    gc.collect()
    library.load("2", places[2])


def test_equal_weights_are_in_memory_once(library: AdapterLibrary, tmp_path: Path) -> None:
    place = Directory.of(save(tmp_path / "x", pair(Q, 2)))
    assert library.load("x", place).weights is library.load("y", place).weights


def test_an_adapter_that_still_answers_is_found_again(
    library: AdapterLibrary, tmp_path: Path
) -> None:
    folder = Directory.of(save(tmp_path / "x", pair(Q, 2)))
    answering = library.load("a", folder).weights
    library.unload("a")
    assert library.load("b", folder).weights is answering


@pytest.mark.parametrize("name", ["base", "", "a b", "../x", "x" * 129, "a\nb"])
def test_names_that_no_adapter_may_have(library: AdapterLibrary, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name for an adapter"):
        library.load(name, Directory.of(save(tmp_path / "x", pair(Q, 2))))


def target(module: str, outputs: range, inputs: range) -> LoraTarget:
    return LoraTarget(
        name=module,
        module=module,
        shape=SHAPES[module],
        first_output=outputs.start,
        outputs=len(outputs),
        first_input=inputs.start,
        inputs=len(inputs),
    )


def change(module: str, rank: int) -> LowRank:
    outputs, inputs = SHAPES[module]
    rng = np.random.default_rng(rank)
    return LowRank(
        rng.standard_normal((rank, inputs), dtype=np.float32),
        rng.standard_normal((outputs, rank), dtype=np.float32),
    )


def product(pool: AdapterPool, module: str, slot: int) -> np.ndarray:
    """What the graph makes of a slot."""
    up, down = pool.arrays[f"lora_b.{module}"][slot], pool.arrays[f"lora_a.{module}"][slot]
    made: np.ndarray = up @ down
    return made


def test_a_slot_holds_its_adapter_and_nothing_of_the_one_before() -> None:
    pool = AdapterPool([target(m, range(o), range(i)) for m, (o, i) in SHAPES.items()], 2, 4)
    large = LoraWeights.of({Q: change(Q, 4), V: change(V, 3)})
    small = LoraWeights.of({V: change(V, 1)})
    pool.hold({2: large})
    for module, one in large.changes.items():
        np.testing.assert_allclose(product(pool, module, 2), one.up @ one.down, rtol=1e-5)
    pool.hold({2: small, 1: large})
    assert not product(pool, Q, 2).any()
    expected = small.changes[V].up @ small.changes[V].down
    np.testing.assert_allclose(product(pool, V, 2), expected, rtol=1e-5)
    assert all(not array[0].any() for array in pool.arrays.values()), "slot 0 is no adapter"


def test_a_rank_holds_its_part() -> None:
    pool = AdapterPool([target(Q, range(2, 4), range(8)), target(V, range(4), range(4, 8))], 1, 4)
    weights = LoraWeights.of({Q: change(Q, 2), V: change(V, 2)})
    pool.hold({1: weights})
    whole = {module: one.up @ one.down for module, one in weights.changes.items()}
    np.testing.assert_allclose(product(pool, Q, 1), whole[Q][2:4], rtol=1e-5)
    np.testing.assert_allclose(product(pool, V, 1), whole[V][:, 4:8], rtol=1e-5)


def test_a_slot_is_written_when_its_adapter_changes_only() -> None:
    pool = AdapterPool([target(Q, range(6), range(8))], 1, 4)
    weights = LoraWeights.of({Q: change(Q, 2)})
    pool.hold({1: weights})
    pool.arrays[f"lora_a.{Q}"][1] = 7.0
    pool.hold({1: weights})
    assert (pool.arrays[f"lora_a.{Q}"][1] == 7.0).all()
