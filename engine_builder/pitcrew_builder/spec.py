"""What to build: the typed request that the operator writes and the builder reads.

Pure: standard library and pydantic. The same `Shapes`, `Parallelism`, `Target` and `Precision`
stand in the LLMEngine resource, so a user's manifest and a build request cannot drift apart.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """Frozen, closed, camelCase on the wire: the base of every document that leaves a process."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class Target(StrEnum):
    """What executes the engine."""

    ONNXRUNTIME_CPU = "onnxruntime-cpu"


class Precision(StrEnum):
    """The arithmetic of weights and activations."""

    FP32 = "fp32"


class HuggingFaceSource(Model):
    """A repository on a Hugging Face compatible hub."""

    kind: Literal["huggingFace"] = "huggingFace"
    repo: str = Field(min_length=1, max_length=192, pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")
    revision: str = Field(default="main", min_length=1, max_length=128)
    endpoint: str | None = Field(default=None, pattern=r"^https?://")


class LocalSource(Model):
    """A checkpoint directory that is already on a mounted volume."""

    kind: Literal["local"] = "local"
    path: str = Field(min_length=1)
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")


Source = Annotated[HuggingFaceSource | LocalSource, Field(discriminator="kind")]


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


class BuildSpec(Model):
    """One build, wholly described. Equal specs over equal weights give equal engine ids."""

    source: Source
    target: Target = Target.ONNXRUNTIME_CPU
    precision: Precision = Precision.FP32
    parallelism: Parallelism = Parallelism()
    shapes: Shapes = Shapes()

    @model_validator(mode="after")
    def _target_supports_layout(self) -> "BuildSpec":
        if self.target is Target.ONNXRUNTIME_CPU and self.parallelism.world_size != 1:
            raise ValueError(
                f"parallelism: target {self.target} runs on one rank, but tensor x pipeline x "
                f"expert = {self.parallelism.world_size}; set all three to 1"
            )
        return self
