"""LLMEngine: a checkpoint and what to make of it; its status names the engine that was built."""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_builder.spec import (
    MAX_RANKS,
    BuildSpec,
    Lora,
    Model,
    Parallelism,
    Platform,
    Precision,
    Shapes,
    Target,
    TensorRt,
)
from pitcrew_operator.api.common import (
    PodSettings,
    ResourceStatus,
    Rule,
    cel,
)
from pitcrew_operator.api.policy import RebuildPolicy
from pitcrew_operator.api.prompts import ConfigMapKey, EngineProof, EngineQuantization, config_maps
from pitcrew_operator.api.source import AdapterSource, ModelSource
from pitcrew_operator.api.store import EngineStore
from pitcrew_operator.api.version import EngineStatus, EngineVersion, Resolution


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
    lora: Lora | None = Field(
        default=None,
        description="Room for LoRA adapters that requests choose while the engine is served. "
        "Default: none.",
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
    quantization: EngineQuantization | None = Field(
        default=None, description="Narrower weights, a narrower KV cache. Default: none."
    )
    proof: EngineProof | None = Field(
        default=None, description="What a build must show on held-out prompts to be published."
    )
    store: EngineStore = Field(default=EngineStore(), description="Where the engine is kept.")
    build: BuildSettings = Field(default=BuildSettings(), description="How the build Job runs.")
    rebuild_policy: RebuildPolicy = Field(
        default=RebuildPolicy(), description="When changes from outside are noticed and built."
    )
    retention: int = Field(
        default=2,
        ge=2,
        le=20,
        description="Proven versions to keep at least. The current one, the one before it and those "
        "that a deployment uses stay in any case.",
    )
    suspend: bool = Field(
        default=False, description="Begin nothing; what runs is finished, what is proven stays."
    )

    @model_validator(mode="after")
    def _paths_have_a_volume(self) -> Self:
        paths = [adapter.path for adapter in self.adapters if adapter.path is not None]
        if paths and self.model.volume is None:
            raise ValueError(
                f"adapters: path '{paths[0]}' is one on the model's volume; set model.volume, or "
                f"take the adapter from a hub"
            )
        return self

    @property
    def config_maps(self) -> tuple[ConfigMapKey, ...]:
        """Keys that prompts come from."""
        return config_maps(self.quantization, self.proof)

    def build_spec(self, platform: Platform | None = None) -> BuildSpec:
        """The request that the builder receives. Raises ValueError where the layout cannot be."""
        return BuildSpec(
            source=self.model.build_source(),
            adapters=tuple(adapter.build_adapter() for adapter in self.adapters),
            lora=self.lora,
            target=self.target,
            precision=self.precision,
            parallelism=self.parallelism,
            shapes=self.shapes,
            tensorrt=self.tensorrt,
            quantization=self.quantization and self.quantization.build_quantization(),
            proof=self.proof and self.proof.build_proof(),
            platform=platform,
        )


class LLMEngineStatus(ResourceStatus):
    """What is the case."""

    model: str | None = Field(default=None, description="Name of the model being built or served.")
    progress: str | None = Field(
        default=None, description="Phase and percent of the running build, such as Serialize 62%."
    )
    engine: EngineStatus | None = Field(
        default=None, description="The engine to serve: the version that was proven last."
    )
    current: str | None = Field(default=None, description="Id of that engine.")
    previous: str | None = Field(
        default=None, description="Id of the engine before it, which is kept for a rollback."
    )
    resolution: Resolution | None = Field(
        default=None, description="The newest look at what would be built."
    )
    versions: tuple[EngineVersion, ...] = Field(
        default=(), description="Every version that is kept, the newest first."
    )
