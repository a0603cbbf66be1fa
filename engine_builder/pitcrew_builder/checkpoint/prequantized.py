"""Reading what a checkpoint says of its own quantization: `quantization_config` and older places.

Writers differ in where they say it and in their words; each has a reader here.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import AliasChoices, Field

from pitcrew_builder.checkpoint.config import parse_as, parse_object
from pitcrew_builder.checkpoint.directory import (
    CONFIG,
    GPTQ_CONFIG,
    MODELOPT_CONFIG,
    Directory,
)
from pitcrew_builder.checkpoint.scheme import Floats8, Integers, Scheme, refuse, require
from pitcrew_builder.checkpoint.tolerant import Tolerant
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.graph.recipe import Packing


def read_scheme(
    directory: Directory, config: Mapping[str, Any], formats: Collection[str] = ()
) -> Scheme | None:
    """The scheme of a checkpoint; None where it is not quantized, or in one of `formats`, which its
    family reads by itself.

    Raises `UnknownArchitecture` for a format that is not read, naming field and value, and
    `CheckpointCorrupt` for what is no object.
    """
    where, stated = CONFIG, config.get("quantization_config")
    if not stated and directory.has(GPTQ_CONFIG):
        where = GPTQ_CONFIG
        stated = {"quant_method": "gptq"} | parse_object(directory.read_small(where), where)
    if not stated and directory.has(MODELOPT_CONFIG):
        where = MODELOPT_CONFIG
        document = parse_object(directory.read_small(where), where)
        stated = {"quant_method": "modelopt"} | dict(document.get("quantization") or {})
    if not stated:
        return None
    if not isinstance(stated, dict):
        raise CheckpointCorrupt(
            f"{where}: quantization_config is {str(stated)[:80]!r}, no object; compare it with the "
            f"published one"
        )
    method = str(stated.get("quant_method", "")).lower()
    if method in formats:
        return None
    reader = _READERS.get(method)
    if reader is None:
        refuse(where, "quant_method", method)
    return reader(stated, where)


class _Awq(Tolerant):
    bits: int = Field(default=4)
    group_size: int = Field(default=128, ge=-1)
    version: str = Field(
        default="gemm",
        validation_alias=AliasChoices("version", "checkpoint_format", "format"),
    )
    backend: str | None = None
    modules_to_not_convert: tuple[str, ...] | None = None


def _awq(stated: dict[str, Any], where: str) -> Scheme:
    config = parse_as(_Awq, stated, where)
    require(where, "bits", config.bits, (4,))
    require(where, "version", config.version.lower(), ("gemm",))
    # Other backends are kernels over the same codes.
    if (config.backend or "").lower() == "llm-awq":
        refuse(where, "backend", config.backend)
    form = Integers(Packing.AWQ, 4, _group(config.group_size), zeros=True)
    return Scheme("awq", form, config.modules_to_not_convert or ())


class _Gptq(Tolerant):
    bits: int
    group_size: int = Field(default=128, ge=-1)
    desc_act: bool = False
    sym: bool = True
    checkpoint_format: str | None = None
    format: str | None = None
    is_marlin_format: bool = False
    dynamic: dict[str, Any] | None = None


def _gptq(stated: dict[str, Any], where: str) -> Scheme:
    config = parse_as(_Gptq, stated, where)
    require(where, "bits", config.bits, (4, 8))
    require(where, "is_marlin_format", config.is_marlin_format, (False,))
    layout = (config.checkpoint_format or config.format or Packing.GPTQ.value).lower()
    require(where, "checkpoint_format", layout, (Packing.GPTQ.value, Packing.GPTQ_V2.value))
    rules = config.dynamic or {}
    # GPTQModel: a rule with "-" leaves modules out; others change bits or groups of some.
    others = [rule for rule in rules if not rule.startswith("-")]
    if others:
        refuse(where, "dynamic", others[0])
    form = Integers(
        Packing(layout),
        config.bits,
        _group(config.group_size),
        zeros=not config.sym,
        ordered=config.desc_act,
    )
    return Scheme("gptq", form, tuple(f"re:.*{rule.lstrip('-:')}" for rule in rules))


class _Fp8(Tolerant):
    weight_block_size: tuple[int, int] | None = None
    activation_scheme: str = "dynamic"
    modules_to_not_convert: tuple[str, ...] | None = None
    ignored_layers: tuple[str, ...] | None = None


def _fp8(stated: dict[str, Any], where: str) -> Scheme:
    config = parse_as(_Fp8, stated, where)
    require(where, "activation_scheme", config.activation_scheme, ("dynamic", "static"))
    form = Floats8(config.weight_block_size, config.activation_scheme == "static")
    excluded = (*(config.modules_to_not_convert or ()), *(config.ignored_layers or ()))
    return Scheme("fp8", form, excluded)


class _Fbgemm(Tolerant):
    modules_to_not_convert: tuple[str, ...] | None = None


def _fbgemm(stated: dict[str, Any], where: str) -> Scheme:
    """One scale an output; activations are bounded and rounded on the way, which is not done here."""
    config = parse_as(_Fbgemm, stated, where)
    form = Floats8(None, rounds_inputs=False)
    return Scheme("fbgemm_fp8", form, config.modules_to_not_convert or ())


class _Numbers(Tolerant):
    num_bits: int
    type: str
    strategy: str = "tensor"
    group_size: int | None = None
    block_structure: tuple[int, int] | None = None
    symmetric: bool = True
    dynamic: bool | str = False
    actorder: bool | str | None = None


class _Group(Tolerant):
    weights: _Numbers | None = None
    input_activations: _Numbers | None = None


_NAIVE = "naive-quantized"
_FORMATS = ("float-quantized", _NAIVE, "pack-quantized")


class _Compressed(Tolerant):
    format: str
    config_groups: dict[str, _Group] = Field(min_length=1)
    ignore: tuple[str, ...] | None = None
    sparsity_config: dict[str, Any] | None = None
    transform_config: dict[str, Any] | None = None


def _compressed(stated: dict[str, Any], where: str) -> Scheme:
    config = parse_as(_Compressed, stated, where)
    require(where, "format", config.format, _FORMATS)
    for field in ("sparsity_config", "transform_config"):
        given = getattr(config, field) or {}
        if given and given.get("format") != "dense":
            refuse(where, field, given)
    forms = {name: _compressed_form(group, where) for name, group in config.config_groups.items()}
    if config.format == _NAIVE and any(isinstance(form, Integers) for form in forms.values()):
        refuse(where, "format", f"{_NAIVE} with integers")
    if len(set(forms.values())) > 1:
        refuse(where, "config_groups", f"{len(forms)} groups that differ")
    return Scheme("compressed-tensors", next(iter(forms.values())), config.ignore or ())


def _compressed_form(group: _Group, where: str) -> Integers | Floats8:
    weights, inputs = group.weights, group.input_activations
    if weights is None:
        refuse(where, "config_groups.weights", None)
    if weights.type == "float":
        require(where, "weights.num_bits", weights.num_bits, (8,))
        require(where, "weights.strategy", weights.strategy, ("tensor", "channel", "block"))
        return Floats8(weights.block_structure, inputs is not None and inputs.dynamic is False)
    require(where, "weights.type", weights.type, ("int",))
    require(where, "weights.num_bits", weights.num_bits, (4, 8))
    require(where, "weights.strategy", weights.strategy, ("channel", "group"))
    if inputs is not None:
        refuse(where, "config_groups.input_activations", f"{inputs.num_bits}-bit {inputs.type}")
    return Integers(
        Packing.COMPRESSED,
        weights.num_bits,
        weights.group_size if weights.strategy == "group" else None,
        zeros=not weights.symmetric,
        # `weight` and `static` order the rounding alone; their groups are runs of inputs.
        ordered=weights.actorder in (True, "group"),
    )


class _ModelOpt(Tolerant):
    quant_algo: str
    exclude_modules: tuple[str, ...] | None = None
    ignore: tuple[str, ...] | None = None


def _modelopt(stated: dict[str, Any], where: str) -> Scheme:
    config = parse_as(_ModelOpt, stated, where)
    algorithm = config.quant_algo.upper()
    require(where, "quant_algo", algorithm, ("FP8", "FP8_PER_CHANNEL_PER_TOKEN"))
    excluded = (*(config.exclude_modules or ()), *(config.ignore or ()))
    return Scheme(
        "modelopt",
        Floats8(None, rounds_inputs=algorithm == "FP8"),
        tuple(f"re:{re.escape(name).replace(chr(92) + '*', '.*')}" for name in excluded),
    )


_READERS: Mapping[str, Callable[[dict[str, Any], str], Scheme]] = {
    "awq": _awq,
    "gptq": _gptq,
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
}


def _group(size: int) -> int | None:
    return size if size > 0 else None
