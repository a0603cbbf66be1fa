"""Checkpoints that come quantized: their codes in the engine compute what their numbers say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.unit.builder import packed
from tests.unit.builder.engines import Engine
from tests.unit.builder.packed import Format

FORMATS: dict[str, Format] = {
    "awq-128": packed.awq(128),
    "awq-32": packed.awq(32),
    "awq-whole": packed.awq(-1),
    "gptq-sym": packed.gptq(128),
    "gptq-zeros": packed.gptq(64, sym=False),
    "gptq-v2-zeros": packed.gptq(32, sym=False, version=2),
    "gptq-act-order": packed.gptq(32, act_order=True),
    "gptq-act-order-zeros": packed.gptq(64, sym=False, act_order=True),
    "gptq-8-bits": packed.gptq(128, bits=8),
    "gptq-8-bits-zeros": packed.gptq(32, bits=8, sym=False, act_order=True),
    "gptq-8-bits-whole": packed.gptq(-1, bits=8),
    "compressed-group": packed.compressed_integers(64, symmetric=True),
    "compressed-zeros": packed.compressed_integers(32, symmetric=False),
    "compressed-channel": packed.compressed_integers(None, symmetric=True),
    "compressed-act-order": packed.compressed_integers(32, symmetric=False, act_order=True),
    "fp8-tensor": packed.compressed_floats("tensor", static=False),
    "fp8-channel": packed.compressed_floats("channel", static=False),
    "fp8-tiles": packed.tiles(128),
    "fp8-small-tiles": packed.tiles(48),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Engine, Engine]]:
    """The engine of a format's checkpoint, and that of the same numbers in float32."""

    def make(
        name: str, model: dict[str, Any] = packed.LLAMA, **spec: object
    ) -> tuple[Engine, Engine]:
        root = tmp_path_factory.mktemp(name)
        theirs, plain = packed.write(root / "checkpoints", FORMATS[name], model)
        return Engine(root, theirs, **spec), Engine(root, plain)

    return make


def _compare(engine: Engine, twin: Engine) -> None:
    found, tokens = engine.logits()
    wanted, likeliest = twin.logits()
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert tokens == likeliest


@pytest.mark.parametrize("name", FORMATS)
def test_codes_compute_what_they_stand_for(
    name: str, pair: Callable[[str], tuple[Engine, Engine]]
) -> None:
    engine, twin = pair(name)
    _compare(engine, twin)
    wide, narrow = (each.manifest.size_bytes for each in (twin, engine))
    assert narrow < 0.55 * wide


MIXTURES = ["awq-32", "gptq-zeros", "gptq-8-bits", "compressed-channel", "fp8-tiles"]


@pytest.mark.parametrize("name", MIXTURES)
def test_stacks_of_experts_keep_their_codes(
    name: str, pair: Callable[..., tuple[Engine, Engine]]
) -> None:
    engine, twin = pair(name, packed.MIXTRAL)
    _compare(engine, twin)
    assert engine.manifest.size_bytes < 0.5 * twin.manifest.size_bytes


def test_experts_that_order_their_rows_each_in_another_way_stay_wide(
    pair: Callable[..., tuple[Engine, Engine]],
) -> None:
    engine, twin = pair("gptq-act-order", packed.MIXTRAL)
    _compare(engine, twin)
    report = engine.manifest.quantization
    assert report is not None
    assert "model.layers.1.mlp.experts.down_proj.weight" in report.kept
    assert not any("experts" in matrix.name for matrix in report.matrices)
    assert any("q_proj" in matrix.name for matrix in report.matrices)


SPLITS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("awq-128", packed.LLAMA, {"tensor": 2}),
    ("awq-32", packed.MIXTRAL, {"tensor": 2}),
    ("gptq-act-order-zeros", packed.LLAMA, {"tensor": 2}),
    ("gptq-8-bits-zeros", packed.LLAMA, {"tensor": 2, "pipeline": 2}),
    ("compressed-zeros", packed.MIXTRAL, {"expert": 2}),
    ("fp8-tiles", packed.LLAMA, {"tensor": 2}),
    ("fp8-small-tiles", packed.MIXTRAL, {"expert": 2, "pipeline": 2}),
]


@pytest.mark.parametrize(("name", "model", "split"), SPLITS)
def test_ranks_hold_parts_of_the_codes(
    name: str,
    model: dict[str, Any],
    split: dict[str, int],
    pair: Callable[..., tuple[Engine, Engine]],
) -> None:
    engine, twin = pair(name, model, parallelism=split)
    assert engine.manifest.world_size == np.prod(list(split.values()))
    _compare(engine, twin)
