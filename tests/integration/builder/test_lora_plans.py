"""Networks that take adapters are networks of TensorRT."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integration.builder.plans import GOLDENS, Workshop, llama, rtx

pytestmark = pytest.mark.skipif(
    find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX has no wheels for this machine",
)

LORA = {"maxAdapters": 3, "maxRank": 8}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("lora"))


@pytest.mark.parametrize(
    ("checkpoint", "precision"), [("llama3", "fp16"), ("phi3", "bf16"), ("mixtral", "fp16")]
)
def test_slots_compile(workshop: Workshop, checkpoint: str, precision: str) -> None:
    _, manifest = workshop.publish(GOLDENS / checkpoint, **rtx(precision), lora=LORA)
    (interface,) = manifest.ranks
    assert interface.plan is not None
    for profile in interface.plan.profiles:
        least, _, most = profile.shapes["adapter_slots"]
        assert (least, most) == ((1,), (2,))
        for target in interface.lora:
            slots = [shape[0] for shape in profile.shapes[target.down]]
            assert slots == [1, 4, 4]
            assert profile.shapes[target.up][2] == (4, target.outputs, 8)


def test_slots_compile_on_every_rank_beside_narrow_weights(
    workshop: Workshop, tmp_path: Path
) -> None:
    checkpoint = llama(tmp_path / "llama", heads=8, kv_heads=4)
    (tmp_path / "prompts.jsonl").write_text('{"text": "In the beginning was the Word"}\n' * 2)
    _, manifest = workshop.publish(
        checkpoint,
        **rtx(),
        lora=LORA,
        parallelism={"tensor": 2},
        quantization={"weights": "int4", "method": "round"},
        proof={
            "prompts": {"path": str(tmp_path / "prompts.jsonl")},
            "maxPerplexityIncreasePercent": "99",
        },
    )
    first, second = (rank.lora for rank in manifest.ranks)
    assert len(first) == len(second) == 14
    down = {target.module: target for target in second}["model.layers.0.mlp.down_proj"]
    assert (down.shape, down.first_input, down.inputs) == ((64, 96), 48, 48)
