"""Checkpoints that come quantized: their codes in the engine compute what their numbers say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.checkpoint.reader import WeightReader
from pitcrew_builder.checkpoint.safetensors import read_header
from pitcrew_builder.checkpoint.unpack import Unpacker
from pitcrew_builder.errors import CheckpointCorrupt, InvalidSpec
from pitcrew_builder.graph.recipe import PackedIntegers, Packing, TensorRef
from pitcrew_builder.plan.advise import answer
from tests.unit.builder import packed
from tests.unit.builder.engines import Engine
from tests.unit.builder.packed import Format

SAMPLE = Path(__file__).parents[3] / "samples" / "models" / "tiny-kjv"

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


@pytest.mark.parametrize("name", ["awq-32", "gptq-sym", "gptq-8-bits-whole", "fp8-tiles"])
@pytest.mark.parametrize("split", [{}, {"tensor": 2}])
def test_codes_are_planned_for(
    name: str, split: dict[str, int], pair: Callable[..., tuple[Engine, Engine]]
) -> None:
    engine, _ = pair(name, packed.LLAMA, parallelism=split)
    predicted = answer(engine.spec, Directory.of(engine.checkpoint)).needs
    sizes = {entry.path: entry.size for entry in engine.manifest.files}
    for rank, needs in enumerate(predicted.ranks):
        assert needs.weights == pytest.approx(sizes[f"rank{rank}/model.onnx.data"], rel=0.02)


STATIC = {
    "compressed": packed.compressed_floats("tensor", static=True),
    "modelopt": packed.modelopt(),
}


@pytest.mark.parametrize("name", STATIC)
def test_activations_are_rounded_by_the_scales_of_the_checkpoint(name: str, tmp_path: Path) -> None:
    theirs, plain = packed.write(tmp_path / "checkpoints", STATIC[name])
    engine, twin = Engine(tmp_path, theirs), Engine(tmp_path, plain)
    graph = onnx.load(engine.path / engine.manifest.ranks[0].graph, load_external_data=False).graph
    scales = [each for each in graph.initializer if each.name.endswith("/input_scale")]
    # Joined to one: queries, keys and values; the gate and the wide projection.
    assert len(scales) == packed.LAYERS * 4
    assert {float(onnx.numpy_helper.to_array(each)) for each in scales} == {np.float32(0.02)}
    found, wanted = engine.logits()[0][0], twin.logits()[0][0]
    assert np.abs(found - wanted).max() > 0.01
    assert np.corrcoef(found, wanted)[0, 1] > 0.95


def test_the_manifest_tells_what_was_imported(
    pair: Callable[..., tuple[Engine, Engine]],
) -> None:
    manifest = pair("gptq-act-order-zeros")[0].manifest
    recipe: Any = manifest.identity.quantization
    assert recipe.imported.model_dump() == {
        "method": "gptq", "bits": 4, "group_size": 64, "zero_points": True, "act_order": True,
    }  # fmt: skip
    assert manifest.tag.endswith("fp32-int4-gptq")
    report: Any = manifest.quantization
    assert {matrix.relative_error for matrix in report.matrices} == {None}
    assert "lm_head.weight" in report.kept
    assert manifest.proof is None


def test_codes_are_proven_where_prompts_are_given(tmp_path: Path) -> None:
    model = packed.LLAMA | {"vocab_size": 2048}
    theirs, _ = packed.write(tmp_path / "checkpoints", FORMATS["awq-128"], model)
    shutil.copy(SAMPLE / "tokenizer.json", theirs)
    text = (SAMPLE / "heldout-text.txt").read_text()
    lines = [json.dumps({"text": text[at : at + 300]}) for at in (0, 5000)]
    (tmp_path / "prompts").write_text("\n".join(lines))
    prompts = {"path": str(tmp_path / "prompts")}
    shapes = {"maxBatchSize": 1, "maxSequenceLength": 128}
    engine = Engine(tmp_path, theirs, proof={"prompts": prompts}, shapes=shapes)
    proof: Any = engine.manifest.proof
    # The reference has the same numbers, unpacked: only ONNX Runtime's own rounding lies between.
    assert proof.worst.kl_divergence < 0.05


WEIGHTS = {"weights": "int8", "method": "round"}


def test_codes_are_not_quantized_again(tmp_path: Path) -> None:
    theirs, _ = packed.write(tmp_path / "checkpoints", FORMATS["gptq-sym"])
    (tmp_path / "prompts").write_text('{"text": "one"}\n{"text": "two"}')
    proof = {"prompts": {"path": str(tmp_path / "prompts")}}
    with pytest.raises(InvalidSpec, match=r"quantization\.weights is int8, .* leave weights out"):
        Engine(tmp_path, theirs, quantization=WEIGHTS, proof=proof)


def test_groups_may_be_named_by_wider_integers(tmp_path: Path) -> None:
    theirs, plain = packed.write(tmp_path / "checkpoints", FORMATS["gptq-act-order"])
    file = theirs / "model.safetensors"
    tensors = load_file(file)
    wider = {
        name: tensor.astype(np.int64) for name, tensor in tensors.items() if name.endswith("g_idx")
    }
    save_file(tensors | wider, file)
    _compare(Engine(tmp_path, theirs), Engine(tmp_path, plain))


def test_a_bias_that_the_network_lacks_must_be_zero(tmp_path: Path) -> None:
    theirs, _ = packed.write(tmp_path / "checkpoints", FORMATS["gptq-sym"])
    file = theirs / "model.safetensors"
    name = "model.layers.0.self_attn.q_proj.bias"
    tensors = load_file(file) | {name: np.zeros(packed.HIDDEN, np.float16)}
    save_file(tensors, file)
    Engine(tmp_path, theirs)
    save_file(tensors | {name: np.ones(packed.HIDDEN, np.float16)}, file)
    with pytest.raises(
        CheckpointCorrupt, match=r"without .*q_proj\.bias, and the tensor is not zero"
    ):
        Engine(tmp_path, theirs)


def test_a_config_that_speaks_of_codes_that_are_not_there_is_refused(tmp_path: Path) -> None:
    theirs, plain = packed.write(tmp_path / "checkpoints", FORMATS["gptq-sym"])
    shutil.copy(theirs / "config.json", plain)
    with pytest.raises(CheckpointCorrupt, match=r"quantized \(gptq\), and no tensor is"):
        Engine(tmp_path, plain)


@pytest.mark.parametrize(
    ("end", "value", "told"),
    [
        ("g_idx", np.full(packed.HIDDEN, 9, np.int32), "names group 9 of 4"),
        ("scales", np.full((4, packed.HIDDEN), np.nan, np.float16), "holds NaN"),
        ("qweight", np.zeros((16, 8), np.int32), r"qweight \(config.json implies \[16, 128\]"),
    ],
)
def test_broken_codes_are_refused(
    end: str, value: npt.NDArray[Any], told: str, tmp_path: Path
) -> None:
    theirs, _ = packed.write(tmp_path / "checkpoints", FORMATS["gptq-act-order"])
    file = theirs / "model.safetensors"
    save_file(load_file(file) | {f"model.layers.0.self_attn.q_proj.{end}": value}, file)
    with pytest.raises(CheckpointCorrupt, match=told):
        Engine(tmp_path, theirs)


@pytest.mark.parametrize(("packing", "zero"), [(Packing.GPTQ, 0), (Packing.GPTQ_V2, 15)])
def test_the_least_zero_point_is_stored_as_all_ones(
    packing: Packing, zero: int, tmp_path: Path
) -> None:
    """Less one, in four bits: the first format wraps around."""
    tensors: packed.Tensors = {
        "codes": np.zeros((2, 8), np.int32),
        "zeros": np.full((1, 1), -1, np.int32),
        "scales": np.ones((1, 8), np.float16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    codes, zeros, scales = (TensorRef(name, tensors[name].shape) for name in tensors)
    source = PackedIntegers((8, 16), packing, 4, codes, scales, zeros, None)
    with WeightReader() as reader:
        found = Unpacker(read_header(tmp_path / "model.safetensors"), reader).read(source)
    np.testing.assert_array_equal(found.decoded(), np.full((8, 16), -float(zero), np.float32))
