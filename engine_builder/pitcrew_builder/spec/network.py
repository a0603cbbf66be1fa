"""What the engine is compiled for: its target, arithmetic, ranks and limits."""

from enum import StrEnum

from pydantic import Field

from pitcrew_builder.spec.base import Model


class Target(StrEnum):
    """What executes the engine."""

    ONNXRUNTIME_CPU = "onnxruntime-cpu"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def compiles_plans(self) -> bool:
        """Whether engines are plans for one kind of GPU."""
        return self is not Target.ONNXRUNTIME_CPU


class Precision(StrEnum):
    """The arithmetic of weights and activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


MAX_RANKS = 64
"""Ranks of one replica at most."""


class Parallelism(Model):
    """How the model is split over ranks; one rank needs one device."""

    tensor: int = Field(default=1, ge=1, le=64, description="Ranks that share each layer.")
    pipeline: int = Field(default=1, ge=1, le=64, description="Ranges of layers.")
    expert: int = Field(default=1, ge=1, le=64, description="Ranks that share the experts.")

    @property
    def world_size(self) -> int:
        """Ranks (and so devices) that one replica needs."""
        return self.tensor * self.pipeline * self.expert


class Shapes(Model):
    """The limits that an engine is compiled for."""

    max_batch_size: int = Field(
        default=32, ge=1, le=1024, description="Sequences in one step at most."
    )
    max_sequence_length: int | None = Field(
        default=None,
        ge=2,
        le=1 << 20,
        description="Tokens of prompt and output together. Default: the lesser of 8192 and what "
        "the checkpoint allows.",
    )
    kv_page_size: int = Field(
        default=16, ge=1, le=256, description="Tokens in one page of the KV cache."
    )
