"""Checkpoints as quantizers write them, and the same numbers as plain float32.

Packed here from the formats' definitions, code by code, and without any of the builder's own: every
matrix is drawn as codes, scales and zero points first, and both checkpoints follow from those.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

HIDDEN, WIDE, VOCAB, LAYERS = 128, 256, 96, 2
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass
class Drawn:
    """A matrix [outputs, inputs] in one format, and what it stands for."""

    tensors: Tensors
    """By the ends of their names, such as `qweight`."""
    values: npt.NDArray[np.float32]


Draw = Callable[[np.random.Generator, int, int], Drawn]


@dataclass
class Format:
    """A way to store the matrices of layers."""

    config: dict[str, Any]
    draw: Draw


def words(codes: Array, bits: int, axis: int, order: list[int] | None = None) -> Array:
    """Unsigned codes in int32 words along `axis`, lowest bits first."""
    count = 32 // bits
    codes = np.moveaxis(codes.astype(np.uint64), axis, -1)
    codes = np.pad(codes, [*[(0, 0)] * (codes.ndim - 1), (0, -codes.shape[-1] % count)])
    grouped = codes.reshape(*codes.shape[:-1], -1, count)
    packed = np.zeros(grouped.shape[:-1], np.uint64)
    for position, place in enumerate(order or range(count)):
        packed |= grouped[..., place] << np.uint64(bits * position)
    return np.moveaxis(packed, -1, axis).astype(np.uint32).view(np.int32).copy()


def integers(
    rng: np.random.Generator, outputs: int, inputs: int, bits: int, group: int, zeros: bool
) -> tuple[Array, Array, Array]:
    """Unsigned codes [outputs, inputs]; float16 scales and zero points [outputs, groups]."""
    group = inputs if group < 0 else group
    shape = (outputs, -(-inputs // group))
    codes = rng.integers(0, 1 << bits, (outputs, inputs))
    scales = (rng.uniform(0.5, 1.5, shape) * 0.15 / (1 << (bits - 1))).astype(np.float16)
    middle = np.full(shape, 1 << (bits - 1))
    moved = rng.integers(-2, 3, shape) if zeros else 0
    return codes, scales, middle + moved


def values(codes: Array, scales: Array, zeros: Array, groups: Array) -> npt.NDArray[np.float32]:
    """(code - zero) * scale."""
    return (codes - zeros[:, groups]).astype(np.float32) * scales.astype(np.float32)[:, groups]


def awq(group: int) -> Format:
    """AutoAWQ's GEMM layout."""

    def draw(rng: np.random.Generator, outputs: int, inputs: int) -> Drawn:
        codes, scales, zeros = integers(rng, outputs, inputs, 4, group, zeros=True)
        tensors = {
            "qweight": words(codes.T, 4, 1, AWQ_ORDER),
            "qzeros": words(zeros.T, 4, 1, AWQ_ORDER),
            "scales": np.ascontiguousarray(scales.T),
        }
        groups = np.arange(inputs) // (inputs if group < 0 else group)
        return Drawn(tensors, values(codes, scales, zeros, groups))

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True}
    return Format(config | {"version": "gemm", "modules_to_not_convert": ["gate"]}, draw)


def gptq(
    group: int, bits: int = 4, *, sym: bool = True, act_order: bool = False, version: int = 1
) -> Format:
    """AutoGPTQ's layout, or GPTQModel's second one."""

    def draw(rng: np.random.Generator, outputs: int, inputs: int) -> Drawn:
        codes, scales, zeros = integers(rng, outputs, inputs, bits, group, zeros=not sym)
        groups = np.arange(inputs) // (inputs if group < 0 else group)
        if act_order:
            groups = rng.permutation(groups)
        tensors = {
            "qweight": words(codes.T, bits, 0),
            "qzeros": words((zeros - (version == 1)).T, bits, 1),
            "scales": np.ascontiguousarray(scales.T),
            "g_idx": groups.astype(np.int32),
        }
        return Drawn(tensors, values(codes, scales, zeros, groups))

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym}
    form = "gptq" if version == 1 else "gptq_v2"
    return Format(config | {"desc_act": act_order, "checkpoint_format": form}, draw)


def compressed_integers(group: int | None, *, symmetric: bool, act_order: bool = False) -> Format:
    """compressed-tensors, `pack-quantized`."""

    def draw(rng: np.random.Generator, outputs: int, inputs: int) -> Drawn:
        codes, scales, zeros = integers(rng, outputs, inputs, 4, group or -1, not symmetric)
        groups = np.arange(inputs) // (group or inputs)
        if act_order:
            groups = rng.permutation(groups)
        tensors = {
            "weight_packed": words(codes, 4, 1),
            "weight_scale": scales.astype(np.float32).astype(ml_dtypes.bfloat16),
            "weight_shape": np.array([outputs, inputs], np.int64),
        }
        if not symmetric:
            tensors["weight_zero_point"] = words(zeros, 4, 0)
        if act_order:
            tensors["weight_g_idx"] = groups.astype(np.int32)
        return Drawn(tensors, values(codes, tensors["weight_scale"], zeros, groups))

    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, "group_size": group}
    weights |= {"strategy": "group" if group else "channel"}
    weights |= {"actorder": "group" if act_order else None}
    return Format(_compressed("pack-quantized", weights, None), draw)


def compressed_floats(strategy: str, *, static: bool) -> Format:
    """compressed-tensors, `float-quantized`."""

    def draw(rng: np.random.Generator, outputs: int, inputs: int) -> Drawn:
        shape = {"tensor": (1,), "channel": (outputs, 1)}[strategy]
        return _float8(rng, outputs, inputs, shape, "weight_scale", static)

    weights = {"num_bits": 8, "type": "float", "strategy": strategy}
    inputs = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": not static}
    return Format(_compressed("float-quantized", weights, inputs), draw)


def tiles(block: int) -> Format:
    """transformers' `fp8`, as DeepSeek and Qwen ship it."""

    def draw(rng: np.random.Generator, outputs: int, inputs: int) -> Drawn:
        shape = (-(-outputs // block), -(-inputs // block))
        return _float8(rng, outputs, inputs, shape, "weight_scale_inv", False, block)

    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    return Format(config | {"weight_block_size": [block, block]}, draw)


def modelopt() -> Format:
    """NVIDIA ModelOpt, with scales of a narrow KV cache."""

    def draw(rng: np.random.Generator, outputs: int, inputs: int) -> Drawn:
        drawn = _float8(rng, outputs, inputs, (), "weight_scale", static=True)
        drawn.tensors["k_scale"] = np.array(1, np.float32)
        return drawn

    config = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
    return Format(config | {"kv_cache_quant_algo": "FP8"}, draw)


def _float8(
    rng: np.random.Generator,
    outputs: int,
    inputs: int,
    shape: tuple[int, ...],
    name: str,
    static: bool,
    block: int | None = None,
) -> Drawn:
    codes = (64 * rng.standard_normal((outputs, inputs))).astype(ml_dtypes.float8_e4m3fn)
    scales = np.asarray(rng.uniform(0.5, 1.5, shape) * 0.1 / 64, np.float32)
    tensors: Tensors = {"weight": codes, name: scales}
    spread = np.broadcast_to(scales, (outputs, 1)) if block is None else _tiled(scales, block)
    if static:
        tensors["input_scale"] = np.array(0.02, np.float32)
    return Drawn(tensors, codes.astype(np.float32) * spread[:outputs, :inputs])


def _tiled(scales: Array, block: int) -> Array:
    return scales.repeat(block, axis=0).repeat(block, axis=1)


def _compressed(
    form: str, weights: dict[str, Any], inputs: dict[str, Any] | None
) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    config = {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"]}
    return config | {"config_groups": {"group_0": group}, "quantization_status": "compressed"}


def write(root: Path, form: Format, model: Mapping[str, Any] = LLAMA) -> tuple[Path, Path]:
    """The checkpoint in that format, and its twin in float32."""
    rng = np.random.default_rng(0)
    packed: Tensors = {}
    plain: Tensors = {}
    for name, shape in _others(model):
        size = (
            1 + 0.1 * rng.standard_normal(shape) if len(shape) == 1 else rng.standard_normal(shape)
        )
        packed[name] = plain[name] = size.astype(np.float32)
    for module, outputs, inputs in _matrices(model):
        drawn = form.draw(rng, outputs, inputs)
        plain[f"{module}.weight"] = drawn.values
        packed |= {f"{module}.{name}": tensor for name, tensor in drawn.tensors.items()}
    given = {"packed": (packed, {"quantization_config": form.config}), "plain": (plain, {})}
    for name, (tensors, more) in given.items():
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(json.dumps({**model, **more}))
        save_file(tensors, root / name / "model.safetensors")
    return root / "packed", root / "plain"


def _others(model: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (model["vocab_size"], HIDDEN)
    yield "lm_head.weight", (model["vocab_size"], HIDDEN)
    yield "model.norm.weight", (HIDDEN,)
    for layer in range(model["num_hidden_layers"]):
        yield f"model.layers.{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"model.layers.{layer}.post_attention_layernorm.weight", (HIDDEN,)
        if model["model_type"] == "mixtral":
            yield f"model.layers.{layer}.block_sparse_moe.gate.weight", (4, HIDDEN)


def _matrices(model: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    for layer in range(model["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, outputs in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2), ("o", HIDDEN)):
            yield f"{prefix}.self_attn.{name}_proj", outputs, HIDDEN
        if model["model_type"] == "llama":
            yield f"{prefix}.mlp.gate_proj", WIDE, HIDDEN
            yield f"{prefix}.mlp.up_proj", WIDE, HIDDEN
            yield f"{prefix}.mlp.down_proj", HIDDEN, WIDE
            continue
        for expert in range(model["num_local_experts"]):
            module = f"{prefix}.block_sparse_moe.experts.{expert}"
            yield f"{module}.w1", WIDE, HIDDEN
            yield f"{module}.w3", WIDE, HIDDEN
            yield f"{module}.w2", HIDDEN, WIDE
