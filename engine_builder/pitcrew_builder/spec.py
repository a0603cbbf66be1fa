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


class S3Source(Model):
    """A checkpoint directory in object storage. Credentials come from the environment."""

    kind: Literal["s3"] = "s3"
    bucket: str = Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$")
    prefix: str = Field(default="", max_length=512, pattern=r"^([^/]+(/[^/]+)*)?$")
    endpoint: str | None = Field(default=None, max_length=512, pattern=r"^https?://")
    region: str | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[a-z0-9-]+$")
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")


Source = Annotated[HuggingFaceSource | LocalSource | S3Source, Field(discriminator="kind")]


class Adapter(Model):
    """A LoRA adapter, as PEFT saves it, that is merged into the weights."""

    source: Source
    weight: str = Field(
        default="1",
        pattern=r"^-?[0-9]{1,3}(\.[0-9]{1,6})?$",
        max_length=11,
        description="What the adapter's change is multiplied by.",
    )


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


class WeightFormat(StrEnum):
    """What the matrices of the layers are stored as."""

    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"


class QuantizationMethod(StrEnum):
    """How codes are chosen."""

    ROUND = "round"
    AWQ = "awq"
    GPTQ = "gptq"


class Prompts(Model):
    """Prompts of the users: JSON lines, each with `text`, `prompt` or `messages`."""

    path: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="A file, as the builder sees it: on a volume or a mounted ConfigMap.",
    )
    url: str | None = Field(
        default=None,
        max_length=1024,
        pattern=r"^https?://",
        description="An address that answers with the file.",
    )
    samples: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Prompts to use at most. Default: 128 to calibrate, 64 to prove.",
    )

    @model_validator(mode="after")
    def _exactly_one_place(self) -> "Prompts":
        if (self.path is None) == (self.url is None):
            raise ValueError("prompts: give exactly one of path and url")
        return self


_DECIMAL = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"


class Proof(Model):
    """What the engine must show on held-out prompts before it is published.

    Perplexity may rise by the larger of its two allowances, over the same network unquantized.
    """

    prompts: Prompts | None = Field(
        default=None,
        description="Held-out prompts. Default: one in five of the calibration prompts, which are "
        "then not calibrated on.",
    )
    max_perplexity_increase: str = Field(
        default="0.5",
        pattern=_DECIMAL,
        max_length=13,
        description="Allowed rise of perplexity, absolute.",
    )
    max_perplexity_increase_percent: str = Field(
        default="2",
        pattern=_DECIMAL,
        max_length=13,
        description="Allowed rise of perplexity, relative.",
    )
    min_top1_agreement: str | None = Field(
        default=None,
        pattern=_DECIMAL,
        max_length=13,
        description="Least share (0 to 1) of positions with the same likeliest token.",
    )
    max_kl_divergence: str | None = Field(
        default=None,
        pattern=_DECIMAL,
        max_length=13,
        description="Most nats per token that the predicted distribution may move.",
    )


class Quantization(Model):
    """Narrower weights, and how they are found."""

    weights: WeightFormat = Field(
        description="fp8: weights and activations in E4M3. int8, int4: weights alone."
    )
    method: QuantizationMethod | None = Field(
        default=None,
        description="Default: gptq for fp8; awq for int4 where calibration prompts are given; else "
        "round.",
    )
    block_size: int = Field(
        default=128,
        ge=16,
        le=128,
        multiple_of=16,
        description="Inputs that share a scale in int4: 128, 64, 32 or 16. A matrix that this does "
        "not divide takes the next smaller one.",
    )
    calibration: Prompts | None = Field(
        default=None, description="Prompts of the users; awq, gptq and fp8 need them."
    )

    @property
    def chosen_method(self) -> QuantizationMethod:
        """The method, with its default decided."""
        if self.method is not None:
            return self.method
        if self.weights is WeightFormat.FP8:
            return QuantizationMethod.GPTQ
        calibrated = self.weights is WeightFormat.INT4 and self.calibration is not None
        return QuantizationMethod.AWQ if calibrated else QuantizationMethod.ROUND

    @property
    def needs_calibration(self) -> bool:
        """Whether activations decide anything."""
        return self.weights is WeightFormat.FP8 or (
            self.chosen_method is not QuantizationMethod.ROUND
        )

    @model_validator(mode="after")
    def _fits_together(self) -> "Quantization":
        if self.block_size & (self.block_size - 1):
            raise ValueError(f"blockSize is {self.block_size}; set it to 128, 64, 32 or 16")
        if self.method is QuantizationMethod.AWQ and self.weights is not WeightFormat.INT4:
            raise ValueError(
                f"method awq makes int4 weights, not {self.weights}; set weights to int4, or method "
                f"to round or gptq"
            )
        if self.needs_calibration and self.calibration is None:
            raise ValueError(
                f"{self.weights} by {self.chosen_method} reads activations of your users' prompts; "
                f"set calibration"
            )
        return self


def _is_none(value: object) -> bool:
    return value is None


def _is_empty(value: tuple[object, ...]) -> bool:
    return not value


class ComputeCapability(StrEnum):
    """A generation of GPUs."""

    SM75 = "sm75"
    SM80 = "sm80"
    SM86 = "sm86"
    SM89 = "sm89"
    SM90 = "sm90"
    SM100 = "sm100"
    SM103 = "sm103"
    SM120 = "sm120"
    SM121 = "sm121"


class Verbosity(StrEnum):
    """How much a compiler says."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    VERBOSE = "verbose"


class TensorRtPlan(Model):
    """The options of TensorRT that decide what a plan is; they are part of the engine id."""

    compute_capability: ComputeCapability = Field(
        description="The GPUs that run the plan: sm89 for L4, L40S and RTX 40, sm90 for H100 and "
        "H200, sm100 for B200, sm120 for RTX 50 and RTX PRO."
    )
    prefill_chunk: int = Field(
        default=2048,
        ge=1,
        le=1 << 17,
        description="Tokens of one sequence in a prefill step at most; longer prompts take several "
        "steps. Memory for activations grows with it.",
    )
    optimization_level: int = Field(
        default=3, ge=0, le=5, description="How long the compiler searches for faster kernels."
    )
    workspace_mib: int | None = Field(
        default=None,
        ge=1,
        le=1 << 20,
        description="Scratch memory that kernels may ask for, in MiB. Default: all of the GPU's.",
    )


class TensorRt(TensorRtPlan):
    """How TensorRT compiles the plan."""

    timing_cache: bool = Field(
        default=True,
        description="Keep measured kernel times in the builder's cache for later builds.",
    )
    verbosity: Verbosity = Field(
        default=Verbosity.ERROR, description="What the compiler writes to the build's log."
    )

    @property
    def plan(self) -> TensorRtPlan:
        """The options that decide what the plan is."""
        return TensorRtPlan(**self.model_dump(include=set(TensorRtPlan.model_fields)))


class BuildSpec(Model):
    """One build, wholly described. Equal specs over equal weights give equal engine ids."""

    source: Source
    target: Target = Target.ONNXRUNTIME_CPU
    precision: Precision = Precision.FP32
    parallelism: Parallelism = Parallelism()
    shapes: Shapes = Shapes()
    # Left out of the document where they are not set: older requests keep their exact text.
    adapters: tuple[Adapter, ...] = Field(
        default=(),
        max_length=8,
        exclude_if=_is_empty,
        description="Adapters to merge, in order.",
    )
    tensorrt: TensorRt | None = Field(default=None, exclude_if=_is_none)
    quantization: Quantization | None = Field(default=None, exclude_if=_is_none)
    proof: Proof | None = Field(default=None, exclude_if=_is_none)

    @model_validator(mode="after")
    def _has_prompts_to_prove_with(self) -> "BuildSpec":
        stated = self.proof is not None and self.proof.prompts is not None
        calibration = self.quantization is not None and self.quantization.calibration is not None
        if (self.quantization is not None or self.proof is not None) and not (
            stated or calibration
        ):
            raise ValueError(
                "proof.prompts: a quantized engine is published only when it is proven on prompts "
                "of your users; give proof.prompts or quantization.calibration"
            )
        return self

    @model_validator(mode="after")
    def _calibrates_on_one_rank(self) -> "BuildSpec":
        wanted, ranks = self.quantization, self.parallelism.world_size
        if wanted is not None and wanted.needs_calibration and ranks > 1:
            raise ValueError(
                f"quantization: {wanted.weights} by {wanted.chosen_method} is calibrated on one "
                f"rank, and parallelism asks for {ranks}; set parallelism to 1, or weights to int8 "
                f"or int4 and method to round"
            )
        return self

    @model_validator(mode="after")
    def _target_supports_precision(self) -> "BuildSpec":
        plans = self.target.compiles_plans
        able = (Precision.FP16, Precision.BF16) if plans else (Precision.FP32,)
        if self.precision not in able:
            raise ValueError(
                f"precision: target {self.target} computes in {' or '.join(able)}, not "
                f"{self.precision}; set precision to {able[0]}"
            )
        return self

    @model_validator(mode="after")
    def _target_has_its_options(self) -> "BuildSpec":
        plans = self.target.compiles_plans
        if plans and self.tensorrt is None:
            raise ValueError(
                f"tensorrt: target {self.target} compiles for one kind of GPU; set "
                f"tensorrt.computeCapability, such as sm90"
            )
        if not plans and self.tensorrt is not None:
            raise ValueError(
                f"tensorrt: target {self.target} has no such options; leave them out, or set "
                f"target to {Target.TENSORRT}"
            )
        return self

    @model_validator(mode="after")
    def _layout_is_bounded(self) -> "BuildSpec":
        if self.parallelism.world_size > MAX_RANKS:
            raise ValueError(
                f"parallelism: tensor x pipeline x expert = {self.parallelism.world_size} ranks, "
                f"and {MAX_RANKS} are the most; lower one of the three"
            )
        return self
