"""Adapters as an engine's inputs, written from `manifest.GraphInterface` and PEFT's format alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Tensor = npt.NDArray[Any]
Stacks = dict[str, tuple[Tensor, Tensor]]
"""By module: A [slots, R, inputs] and B [slots, outputs, R] of the whole matrix, scaled."""

PREFIX = "base_model.model."


def stack(manifest: Mapping[str, Any], adapters: Sequence[Path]) -> Stacks:
    """Slot 0 holds zeros, the next ones the adapters."""
    rank = manifest["identity"]["lora"]["maxRank"]
    shapes = {
        target["module"]: target["shape"] for part in manifest["ranks"] for target in part["lora"]
    }
    slots = 1 + len(adapters)
    stacks = {
        module: (
            np.zeros((slots, rank, inputs), np.float32),
            np.zeros((slots, outputs, rank), np.float32),
        )
        for module, (outputs, inputs) in shapes.items()
    }
    for slot, path in enumerate(adapters, 1):
        _fill(stacks, slot, path)
    return stacks


def part_of(rank: Mapping[str, Any], stacks: Stacks) -> dict[str, Tensor]:
    """What one rank is fed."""
    inputs: dict[str, Tensor] = {}
    for target in rank["lora"]:
        down, up = stacks[target["module"]]
        name, first, start = target["name"], target["firstInput"], target["firstOutput"]
        inputs[f"lora_a.{name}"] = down[:, :, first : first + target["inputs"]].copy()
        inputs[f"lora_b.{name}"] = up[:, start : start + target["outputs"]].copy()
    return inputs


def _fill(stacks: Stacks, slot: int, path: Path) -> None:
    config = json.loads((path / "adapter_config.json").read_text())
    for name, down in load_file(path / "adapter_model.safetensors").items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        up = load_file(path / "adapter_model.safetensors")[name.replace("lora_A", "lora_B")]
        count = len(down)
        divisor = count**0.5 if config["use_rslora"] else count
        stacks[module][0][slot, :count] = down
        stacks[module][1][slot, :, :count] = up * (config["lora_alpha"] / divisor)
