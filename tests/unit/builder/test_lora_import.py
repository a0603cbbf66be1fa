"""Checkpoints that come quantized take adapters as any other does."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden.reference import ReferenceEngine
from tests.unit.builder import packed
from tests.unit.builder.engines import PROMPT, Engine
from tests.unit.builder.packed import Format
from tests.unit.runtime.peft import save

FORMATS: dict[str, Format] = {
    "awq": packed.awq(32),
    "gptq-act-order": packed.gptq(32, act_order=True),
    "fp8": packed.compressed_floats("channel", static=False),
}
LORA = {"maxAdapters": 1, "maxRank": 4}


def _adapter(directory: Path, engine: ReferenceEngine) -> Path:
    """A change of every linear map that takes one."""
    rng = np.random.default_rng(1)
    tensors = {}
    for target in engine.manifest["ranks"][0]["lora"]:
        outputs, inputs = target["shape"]
        prefix = f"base_model.model.{target['module']}"
        tensors[f"{prefix}.lora_A.weight"] = 0.1 * rng.standard_normal((4, inputs), np.float32)
        tensors[f"{prefix}.lora_B.weight"] = 0.1 * rng.standard_normal((outputs, 4), np.float32)
    return save(directory, tensors, r=4, lora_alpha=4, use_rslora=False)


@pytest.mark.parametrize("name", FORMATS)
def test_adapters_stand_beside_codes(name: str, tmp_path: Path) -> None:
    theirs, plain = packed.write(tmp_path / "checkpoints", FORMATS[name], packed.LLAMA)
    engine, twin = (
        ReferenceEngine(Engine(tmp_path, checkpoint, lora=LORA).path, exact=True)
        for checkpoint in (theirs, plain)
    )
    targets = engine.manifest["ranks"][0]["lora"]
    assert targets == twin.manifest["ranks"][0]["lora"]
    assert len(targets) == 7 * packed.LAYERS
    adapter = _adapter(tmp_path / "adapter", twin)
    found = engine.adapted([adapter, None]).feed([PROMPT, PROMPT])
    wanted = twin.adapted([adapter, None]).feed([PROMPT, PROMPT])
    np.testing.assert_allclose(np.stack(found), np.stack(wanted), atol=1e-3)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1
