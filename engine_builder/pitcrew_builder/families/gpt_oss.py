"""GPT-OSS: heads with sinks, alternating windows, experts with biases and a clamped activation."""

import re
from dataclasses import replace
from typing import Any

from pydantic import Field

from pitcrew_builder.blocks.causal_lm import Decoder
from pitcrew_builder.blocks.decoder_layer import DecoderLayer
from pitcrew_builder.blocks.moe import Clamp, MixtureOfExperts
from pitcrew_builder.blocks.norm import Norm
from pitcrew_builder.checkpoint.config import DecoderConfig
from pitcrew_builder.families.family import Family, attention, decoder, frame
from pitcrew_builder.families.mixture import check_experts
from pitcrew_builder.families.refusal import require, unsupported
from pitcrew_builder.families.windows import FULL, SLIDING, windows_of
from pitcrew_builder.graph.emitter import Sources
from pitcrew_builder.graph.recipe import (
    MXFP4_BLOCK,
    Entry,
    Mxfp4,
    Rows,
    Source,
    TensorRef,
    Transposed,
)
from pitcrew_builder.manifest import ResolvedShapes

MXFP4 = "mxfp4"
BYTES = ("U8",)
_DEFAULT_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate|up|down)_proj\.(weight|bias)")


class GptOssConfig(DecoderConfig):
    """`model_type: gpt_oss`."""

    default_theta = 150000.0

    num_key_value_heads: int = Field(default=8, gt=0, le=1024)
    head_dim: int = Field(default=64, gt=0, le=1024, multiple_of=2)
    max_position_embeddings: int = Field(default=131072, gt=1)
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    attention_bias: bool = True
    sliding_window: int | None = Field(default=128, gt=0)
    layer_types: tuple[str, ...] | None = None
    num_local_experts: int = Field(default=128, gt=0, le=4096)
    num_experts_per_tok: int = Field(default=4, gt=0)
    swiglu_alpha: float = 1.702
    swiglu_limit: float = Field(default=7.0, gt=0)
    quantization_config: dict[str, Any] | None = None

    @property
    def experts(self) -> int:
        """Experts of each mixture."""
        return self.num_local_experts

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer: the first, third and so on, unless they are listed."""
        types = self.layer_types or [
            FULL if index % 2 else SLIDING for index in range(self.num_hidden_layers)
        ]
        return windows_of(self, types, self.sliding_window)

    @property
    def is_packed(self) -> bool:
        """Whether the experts are stored in MXFP4."""
        return (self.quantization_config or {}).get("quant_method") == MXFP4

    @classmethod
    def _rope(cls, known: dict[str, Any]) -> dict[str, Any]:
        if not known.get("rope_parameters") and not known.get("rope_scaling"):
            known["rope_parameters"] = _DEFAULT_ROPE
        return super()._rope(known)


def draw(config: GptOssConfig, shapes: ResolvedShapes) -> Decoder:
    """The network of a GPT-OSS."""
    require(config, "hidden_act", config.hidden_act, "silu")
    check_experts(config, config.num_experts_per_tok, config.num_local_experts)
    plain = replace(
        attention(config),
        qkv_bias=config.attention_bias,
        output_bias=config.attention_bias,
        sinks=True,
    )
    layers = [
        DecoderLayer(replace(plain, window=window), _experts(config), Norm(config.rms_norm_eps))
        for window in config.windows
    ]
    whole = replace(frame(config, shapes, config.windows), sources=_sources(config))
    return decoder(whole, layers)


def _experts(config: GptOssConfig) -> MixtureOfExperts:
    return MixtureOfExperts(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        experts=config.num_local_experts,
        chosen=config.num_experts_per_tok,
        router="router",
        router_bias=True,
        clamp=Clamp(config.swiglu_alpha, config.swiglu_limit),
    )


def _sources(config: GptOssConfig) -> Sources:
    """Where an expert's matrices lie: stacked, gate and up by turns, [in, out] or packed."""
    if config.is_packed:
        for field in ("hidden_size", "intermediate_size"):
            if getattr(config, field) % MXFP4_BLOCK:
                expected = f"multiples of {MXFP4_BLOCK}, as MXFP4 needs"
                raise unsupported(config, field, getattr(config, field), expected)

    def sources(tensor: TensorRef) -> Source:
        found = _EXPERT.fullmatch(tensor.name)
        if found is None:
            return tensor
        prefix, index, which, kind = found.groups()
        name = f"{prefix}.{'down' if which == 'down' else 'gate_up'}_proj"
        turns = 1 if which == "down" else 2
        rows = turns * tensor.shape[0]
        read = _bias if kind == "bias" else _packed if config.is_packed else _plain
        whole = read(config, name, int(index), rows)
        return whole if which == "down" else Rows(whole, int(which == "up"), rows, turns)

    return sources


def _bias(config: GptOssConfig, name: str, index: int, rows: int) -> Source:
    return Entry(TensorRef(f"{name}_bias", (config.num_local_experts, rows)), index)


def _plain(config: GptOssConfig, name: str, index: int, rows: int) -> Source:
    shape = (config.num_local_experts, _columns(config, name), rows)
    return Transposed(Entry(TensorRef(name, shape), index))


def _packed(config: GptOssConfig, name: str, index: int, rows: int) -> Source:
    groups = _columns(config, name) // MXFP4_BLOCK
    shape = (config.num_local_experts, rows, groups)
    blocks = TensorRef(f"{name}_blocks", (*shape, MXFP4_BLOCK // 2), BYTES)
    return Mxfp4(blocks, TensorRef(f"{name}_scales", shape, BYTES), index)


def _columns(config: GptOssConfig, name: str) -> int:
    return config.intermediate_size if name.endswith("down_proj") else config.hidden_size


FAMILY = Family(name="gpt_oss", config=GptOssConfig, draw=draw, formats=frozenset({MXFP4}))
