"""Adapters as the PEFT library saves them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
SHAPES = {Q: (6, 8), V: (4, 8)}
"""Outputs and inputs of a network that is just large enough to go wrong."""


def pair(module: str, rank: int, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """The two tensors of a module."""
    outputs, inputs = SHAPES[module]
    rng = np.random.default_rng(seed)
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": rng.standard_normal((rank, inputs), dtype=np.float32),
        f"{prefix}.lora_B.weight": rng.standard_normal((outputs, rank), dtype=np.float32),
    }


def save(directory: Path, tensors: Mapping[str, npt.NDArray[np.generic]], **config: object) -> Path:
    """An adapter's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 2} | config
    (directory / "adapter_config.json").write_text(json.dumps(document))
    save_file(dict(tensors), directory / "adapter_model.safetensors")
    return directory
