"""Checkpoints that come quantized, and stacks of experts made narrow, are networks of TensorRT."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integration.builder.plans import SAMPLE, Workshop, rtx
from tests.unit.builder import packed
from tests.unit.builder.packed import Format

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX has no wheels for this machine",
)

FORMATS: dict[str, Format] = {
    "awq": packed.awq(128),
    "gptq": packed.gptq(128),
    "gptq-act-order-zeros": packed.gptq(32, sym=False, act_order=True),
    "gptq-8-bits": packed.gptq(64, bits=8),
    "compressed-zeros": packed.compressed_integers(64, symmetric=False),
    "compressed-fp8": packed.compressed_floats("channel", static=True),
    "fp8-tiles": packed.tiles(128),
    "modelopt": packed.modelopt(),
}
LLAMA, MIXTRAL = (model | {"num_hidden_layers": 1} for model in (packed.LLAMA, packed.MIXTRAL))
MIXTURES = ["awq", "gptq-8-bits", "fp8-tiles"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("narrow-plans"))


@pytest.mark.parametrize("number", range(len(FORMATS)), ids=list(FORMATS))
def test_codes_of_a_checkpoint_compile(number: int, workshop: Workshop, tmp_path: Path) -> None:
    precision, capability = (("fp16", "sm89"), ("bf16", "sm120"))[number % 2]
    name = list(FORMATS)[number]
    checkpoint, _ = packed.write(tmp_path / name, FORMATS[name], LLAMA)
    _, manifest = workshop.publish(checkpoint, **rtx(precision, capability))
    assert manifest.identity.quantization is not None
    assert manifest.identity.quantization.imported is not None
    assert f"{precision}-{manifest.identity.quantization.tag}" in manifest.tag


@pytest.mark.parametrize("name", MIXTURES)
def test_codes_of_experts_compile(name: str, workshop: Workshop, tmp_path: Path) -> None:
    checkpoint, _ = packed.write(tmp_path / name, FORMATS[name], MIXTRAL)
    _, manifest = workshop.publish(checkpoint, **rtx())
    assert manifest.quantization is not None
    assert any("experts" in matrix.name for matrix in manifest.quantization.matrices)


@pytest.mark.parametrize("weights", ["int8", "int4", "fp8"])
def test_experts_made_narrow_compile(weights: str, workshop: Workshop, tmp_path: Path) -> None:
    text = (SAMPLE / "heldout-text.txt").read_text()
    lines = [json.dumps({"text": text[at : at + 200]}) for at in range(0, 1600, 200)]
    (tmp_path / "own").write_text("\n".join(lines))
    model = MIXTRAL | {"vocab_size": 2048}
    _, plain = packed.write(tmp_path / "mixtral", FORMATS["awq"], model)
    shutil.copy(SAMPLE / "tokenizer.json", plain)
    quantization = {
        "weights": weights,
        "method": "round",
        "calibration": {"path": str(tmp_path / "own")},
    }
    proof = {"maxPerplexityIncreasePercent": "1000"}
    _, manifest = workshop.publish(plain, **rtx(), quantization=quantization, proof=proof)
    assert manifest.quantization is not None
    assert sum("experts" in matrix.name for matrix in manifest.quantization.matrices) == 3
