"""What checkpoints say of their own quantization, in every place and wording that is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.checkpoint.prequantized import read_scheme
from pitcrew_builder.checkpoint.scheme import Floats8, Integers, Scheme
from pitcrew_builder.errors import CheckpointCorrupt, UnknownArchitecture
from pitcrew_builder.graph.recipe import Packing


def _scheme(
    tmp_path: Path, stated: dict[str, Any] | None, **files: dict[str, Any]
) -> Scheme | None:
    for name, document in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    config = {} if stated is None else {"quantization_config": stated}
    return read_scheme(Directory.of(tmp_path), config)


GROUP = {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}
FLOATS = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


@pytest.mark.parametrize(
    ("stated", "form"),
    [
        (
            {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "GEMM"},
            Integers(Packing.AWQ, 4, 64, zeros=True),
        ),
        (
            {"quant_method": "awq", "bits": 4, "format": "gemm", "backend": "auto"},
            Integers(Packing.AWQ, 4, 128, zeros=True),
        ),
        (
            {"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": True, "sym": False},
            Integers(Packing.GPTQ, 8, None, zeros=True, ordered=True),
        ),
        (
            {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
            Integers(Packing.GPTQ_V2, 4, 128, zeros=False),
        ),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            Floats8((128, 128), rounds_inputs=False),
        ),
        (COMPRESSED | {"config_groups": {"0": GROUP}}, Integers(Packing.COMPRESSED, 4, 128, False)),
        (
            COMPRESSED | {"format": "naive-quantized", "config_groups": {"0": FLOATS}},
            Floats8(None, rounds_inputs=False),
        ),
        ({"quant_method": "fbgemm_fp8"}, Floats8(None, rounds_inputs=False)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, Floats8(None, rounds_inputs=True)),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else "",
)
def test_configs_become_schemes(stated: dict[str, Any], form: object, tmp_path: Path) -> None:
    found = _scheme(tmp_path, stated)
    assert found is not None
    assert found.form == form


def test_a_format_that_is_only_named_is_refused(tmp_path: Path) -> None:
    config = {"quantization_config": "awq"}
    with pytest.raises(CheckpointCorrupt, match="quantization_config is 'awq', no object"):
        read_scheme(Directory.of(tmp_path), config)


def test_older_places_are_read(tmp_path: Path) -> None:
    assert _scheme(tmp_path, None) is None
    algorithm = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head", "*.0.mlp*"]}}
    modelopt = _scheme(tmp_path, None, hf_quant_config=algorithm)
    assert modelopt is not None
    assert modelopt.method == "modelopt"
    assert not modelopt.covers("model.layers.0.mlp.up_proj")
    assert modelopt.covers("model.layers.1.mlp.up_proj")
    gptq = _scheme(tmp_path, None, quantize_config={"bits": 4, "group_size": 32, "desc_act": False})
    assert gptq is not None
    assert gptq.form == Integers(Packing.GPTQ, 4, 32, zeros=False)


def test_formats_of_a_family_are_left_to_it(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    assert read_scheme(Directory.of(tmp_path), config, {"mxfp4"}) is None


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method is 'bitsandbytes'"),
        ({"quant_method": "awq", "version": "gemv"}, "version is 'gemv'"),
        ({"quant_method": "awq", "backend": "llm-awq"}, "backend is 'llm-awq'"),
        (
            COMPRESSED | {"format": "naive-quantized", "config_groups": {"0": GROUP}},
            "naive-quantized with integers",
        ),
        ({"quant_method": "awq", "bits": 3}, "bits is 3"),
        ({"quant_method": "gptq", "bits": 2}, "bits is 2"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*up": {"bits": 8}}}, "dynamic is"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_algo is 'NVFP4'"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "config_groups": {"0": {}},
            },
            "format is 'nvfp4-pack-quantized'",
        ),
        (
            COMPRESSED
            | {
                "config_groups": {
                    "0": GROUP | {"input_activations": {"num_bits": 8, "type": "int"}}
                }
            },
            "input_activations is '8-bit int'",
        ),
        (
            COMPRESSED
            | {"config_groups": {"0": GROUP, "1": {"weights": GROUP["weights"] | {"num_bits": 8}}}},
            "2 groups that differ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_rest_is_refused_with_what_is_known(
    stated: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownArchitecture) as refused:
        _scheme(tmp_path, stated)
    assert told in str(refused.value)
    assert "known are: awq (GEMM, 4 bits), gptq" in str(refused.value)
