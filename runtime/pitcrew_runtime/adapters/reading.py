"""From a directory as PEFT saves it to an adapter in memory.

Only safetensors are read, never a pickle, and only plain LoRA of maps that the engine has slots for:
what would be left out would be a wrong answer. Nothing is read before its size has been checked.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from pitcrew_builder.adapters.peft import AdapterConfig, change_of, check_plain, text_tensors
from pitcrew_builder.checkpoint.config import parse_as, parse_object
from pitcrew_builder.checkpoint.directory import ADAPTER, Directory, read_tensors
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.errors import BuildError
from pitcrew_runtime.adapters.weights import Floats, LoraWeights, LowRank, Room
from pitcrew_runtime.errors import InvalidAdapter

_SHOWN = 8
"""Names in one message."""


def read_adapter(directory: Directory, room: Room) -> LoraWeights:
    """The adapter of a directory; raises `InvalidAdapter` where the engine cannot serve it."""
    try:
        document = parse_object(directory.read_small(ADAPTER.config), ADAPTER.config)
        check_plain(document, directory.path.name)
        config = parse_as(AdapterConfig, document, ADAPTER.config)
        tensors = text_tensors(read_tensors(directory, ADAPTER))
    except BuildError as error:
        raise InvalidAdapter(str(error), param="lora_path") from error
    except OSError as error:
        raise _unreadable(directory.path.name, error) from error
    pairs = _pairs(tensors, room)
    for module, roles in pairs.items():
        _check(module, roles, room)
    return LoraWeights.of({module: _change(module, pairs[module], config) for module in pairs})


def _pairs(tensors: Mapping[str, TensorInfo], room: Room) -> dict[str, dict[str, TensorInfo]]:
    """The tensors by module, and by what they are for: A or B."""
    found: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
    for name, info in tensors.items():
        change = change_of(name)
        module = change.target.removesuffix(".weight")
        if change.role == "whole" or change.embedding:
            _refuse(
                f"tensor {name[:200]} is no change of low rank to a linear map of a layer (trained "
                f"biases, modules_to_save and embeddings); merge this adapter when the engine is "
                f"built (adapters)"
            )
        if module not in room.shapes:
            _refuse(
                f"tensor {name[:200]} changes {module[:200]}, and the engine takes adapters for "
                f"{_names(room)}; build the engine with that name in lora.targetModules, or from "
                f"the checkpoint that the adapter was trained on"
            )
        found[module][change.role] = info
    if not found:
        _refuse("the adapter holds no tensors; copy it again")
    return found


def _names(room: Room) -> str:
    names = sorted({module.rpartition(".")[2] for module in room.shapes})
    return ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")


def _check(module: str, roles: Mapping[str, TensorInfo], room: Room) -> None:
    if len(roles) < 2:
        _refuse(f"{module} has lora_{', '.join(roles)} alone, and A and B belong together")
    down, up = roles["A"].shape, roles["B"].shape
    outputs, inputs = room.shapes[module]
    if len(down) != 2 or up != (outputs, down[0]) or down[1] != inputs:
        _refuse(
            f"{module} has A {list(down)} and B {list(up)}, and the engine's matrix is "
            f"[{outputs}, {inputs}]; use an adapter that was trained on its checkpoint"
        )
    if not 0 < down[0] <= room.max_rank:
        _refuse(
            f"{module} has rank {down[0]}, and the engine has room for {room.max_rank}; build it "
            f"with lora.maxRank: {down[0]} or more"
        )
    for info in roles.values():
        if info.dtype not in ("F32", "F16", "BF16"):
            _refuse(f"tensor {info.name} is {info.dtype}; save the adapter as F32, F16 or BF16")


def _change(module: str, roles: Mapping[str, TensorInfo], config: AdapterConfig) -> LowRank:
    down, up = _read(roles["A"]), _read(roles["B"])
    return LowRank(down, up * np.float32(config.scale(module, len(down))))


def _read(info: TensorInfo) -> Floats:
    """A tensor as float32."""
    try:
        with info.file.open("rb") as stream:
            stream.seek(info.offset)
            raw = stream.read(info.length)
    except OSError as error:
        raise _unreadable(info.file.name, error) from error
    if len(raw) != info.length:
        _refuse(f"tensor {info.name} was cut off while it was read; load it again")
    array = _as_float32(raw, info.dtype).reshape(info.shape)
    if not np.isfinite(array).all():
        _refuse(f"tensor {info.name} holds NaN or infinite numbers; train it again")
    return array


def _as_float32(raw: bytes, dtype: str) -> Floats:
    if dtype == "BF16":
        # The upper half of a float32.
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def _unreadable(name: str, error: OSError) -> InvalidAdapter:
    problem = f"{name} cannot be read ({error.strerror}); copy it again, readable for the server"
    return InvalidAdapter(problem, param="lora_path")


def _refuse(problem: str) -> NoReturn:
    raise InvalidAdapter(problem, param="lora_path")


def within(root: Path, path: str) -> Directory:
    """An adapter's directory under `root`, links resolved. Raises `InvalidAdapter`."""
    base = root.resolve()
    try:
        place = (base / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        place = None
    if place is None or not place.is_dir() or not place.is_relative_to(base):
        raise InvalidAdapter(
            f"lora_path: {path[:200]!r} is no directory under --lora-root; give one, relative to it",
            param="lora_path",
        )
    return Directory(place, base)
