"""LLMEngine: a checkpoint and what to make of it; its status names the engine that was built."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import (
    MAX_RANKS,
    BuildSpec,
    Model,
    Parallelism,
    Precision,
    Proof,
    Quantization,
    Shapes,
    Target,
    TensorRt,
)
from pitcrew_operator.api.common import (
    ObjectName,
    PodSettings,
    ResourceStatus,
    Rule,
    StatusModel,
    cel,
)
from pitcrew_operator.api.source import AdapterSource, ModelSource


class EngineStore(Model):
    """The volume that engines are published to."""

    claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim for engines. Default: one that the operator creates "
        "for the namespace and never deletes.",
    )


class BuildSettings(PodSettings):
    """The build Job."""

    active_deadline_seconds: int = Field(
        default=86400,
        ge=60,
        le=604800,
        description="Seconds after which a build is given up, retries included.",
    )


class LLMEngineSpec(Model):
    """What to build."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                rule="!has(self.parallelism) || self.parallelism.tensor * "
                f"self.parallelism.pipeline * self.parallelism.expert <= {MAX_RANKS}",
                message=f"parallelism: tensor x pipeline x expert must be {MAX_RANKS} ranks at "
                "most; lower one of the three",
            ),
            Rule(
                rule="self.target == 'onnxruntime-cpu' ? self.precision == 'fp32' : "
                "self.precision != 'fp32'",
                message="precision: target onnxruntime-cpu computes in fp32, tensorrt and "
                "tensorrt-rtx in fp16 or bf16; set precision to match the target",
            ),
            Rule(
                rule="(self.target != 'onnxruntime-cpu') == has(self.tensorrt)",
                message="tensorrt: targets tensorrt and tensorrt-rtx need "
                "tensorrt.computeCapability, and onnxruntime-cpu has no such options",
            ),
            Rule(
                rule="!has(self.adapters) || has(self.model.volume) || "
                "!self.adapters.exists(adapter, has(adapter.path))",
                message="adapters: a path is one on the model's volume; set model.volume, or take "
                "the adapter from a hub",
            ),
        )
    )

    model: ModelSource = Field(description="The checkpoint.")
    adapters: tuple[AdapterSource, ...] = Field(
        default=(), max_length=8, description="LoRA adapters to merge into the weights, in order."
    )
    target: Target = Field(default=Target.ONNXRUNTIME_CPU, description="What executes the engine.")
    precision: Precision = Field(
        default=Precision.FP32, description="Arithmetic of weights and activations."
    )
    parallelism: Parallelism = Field(
        default=Parallelism(), description="How the model is split over ranks."
    )
    shapes: Shapes = Field(
        default=Shapes(), description="The limits that the engine is compiled for."
    )
    tensorrt: TensorRt | None = Field(
        default=None, description="How a plan is compiled. Targets tensorrt and tensorrt-rtx."
    )
    quantization: Quantization | None = Field(
        default=None, description="Narrower weights. Default: none."
    )
    proof: Proof | None = Field(
        default=None, description="What a build must show on held-out prompts to be published."
    )
    store: EngineStore = Field(default=EngineStore(), description="Where the engine is kept.")
    build: BuildSettings = Field(default=BuildSettings(), description="How the build Job runs.")

    @model_validator(mode="after")
    def _paths_have_a_volume(self) -> Self:
        paths = [adapter.path for adapter in self.adapters if adapter.path is not None]
        if paths and self.model.volume is None:
            raise ValueError(
                f"adapters: path '{paths[0]}' is one on the model's volume; set model.volume, or "
                f"take the adapter from a hub"
            )
        return self

    def build_spec(self) -> BuildSpec:
        """The request that the builder receives. Raises ValueError where the layout cannot be."""
        return BuildSpec(
            source=self.model.build_source(),
            adapters=tuple(adapter.build_adapter() for adapter in self.adapters),
            target=self.target,
            precision=self.precision,
            parallelism=self.parallelism,
            shapes=self.shapes,
            tensorrt=self.tensorrt,
            quantization=self.quantization,
            proof=self.proof,
        )


class EngineStatus(StatusModel):
    """The proven engine. It stays until a newer one takes its place."""

    id: str = Field(description="Content address: 64 hex digits.")
    tag: str = Field(description="Model, commit and target for people.")
    path: str = Field(description="Directory, relative to the root of the volume.")
    claim_name: str = Field(description="PersistentVolumeClaim that holds the engine.")
    model: str = Field(description="Name of the model.")
    commit: str = Field(description="Commit or content digest of the checkpoint.")
    world_size: int = Field(ge=1, description="Ranks that serve one replica.")
    size_bytes: int = Field(ge=0, description="Bytes of all files.")
    manifest_sha256: str = Field(description="Digest of manifest.json.")
    max_batch_size: int = Field(description="Sequences in one step at most.")
    max_sequence_length: int = Field(description="Tokens of prompt and output at most.")
    kv_bytes_per_token: int = Field(description="Bytes of KV cache that one token takes.")
    build_seconds: int = Field(description="Wall time of the build, rounded.")
    cached: bool = Field(description="True where the store already held the engine.")


class BuildStatus(StatusModel):
    """The newest build."""

    job_name: str = Field(description="Name of the Job.")
    spec_hash: str = Field(description="Digest of everything that the Job was made from.")
    state: str = Field(description="Running, Succeeded or Failed.")
    reason: str | None = Field(default=None, description="Why a failed build failed.")
    message: str | None = Field(
        default=None, description="What was wrong with a failed build, and what to do."
    )


class LLMEngineStatus(ResourceStatus):
    """What is the case."""

    model: str | None = Field(default=None, description="Name of the model being built or served.")
    progress: str | None = Field(
        default=None, description="Phase and percent of the running build, such as Serialize 62%."
    )
    engine: EngineStatus | None = Field(default=None, description="The engine to serve.")
    build: BuildStatus | None = Field(default=None, description="The newest build.")
