"""The whole request."""

from pydantic import Field, model_validator

from pitcrew_builder.spec.base import Model, is_empty, is_none
from pitcrew_builder.spec.lora import Lora
from pitcrew_builder.spec.network import MAX_RANKS, Parallelism, Precision, Shapes, Target
from pitcrew_builder.spec.platform import Platform
from pitcrew_builder.spec.proof import Proof
from pitcrew_builder.spec.quantization import CacheFormat, HeadFormat, Quantization, WeightFormat
from pitcrew_builder.spec.source import Adapter, Source
from pitcrew_builder.spec.tensorrt import Attention, ComputeCapability, Products, TensorRt


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
        exclude_if=is_empty,
        description="Adapters to merge, in order.",
    )
    lora: Lora | None = Field(default=None, exclude_if=is_none)
    tensorrt: TensorRt | None = Field(default=None, exclude_if=is_none)
    quantization: Quantization | None = Field(default=None, exclude_if=is_none)
    proof: Proof | None = Field(default=None, exclude_if=is_none)
    platform: Platform | None = Field(
        default=None,
        exclude_if=is_none,
        description="The machines that a plan is built for, where the asker knows them.",
    )

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
    def _gpu_knows_fp8(self) -> "BuildSpec":
        wanted = self.quantization
        asked = {
            "weights": wanted is not None and wanted.weights is WeightFormat.FP8,
            "kvCache": wanted is not None and wanted.kv_cache is CacheFormat.FP8,
        }
        fields = " and ".join(field for field, is_fp8 in asked.items() if is_fp8)
        if fields and self.tensorrt and not self.tensorrt.compute_capability.has_fp8:
            raise ValueError(
                f"quantization: {fields} is fp8, which GPUs of {self.tensorrt.compute_capability} "
                f"do not know; set it to int8, or tensorrt.computeCapability to sm89 or later"
            )
        return self

    @model_validator(mode="after")
    def _head_is_narrow_on_cpus(self) -> "BuildSpec":
        wanted = self.quantization
        if wanted is None or wanted.head is not HeadFormat.INT8:
            return self
        if self.target.compiles_plans:
            raise ValueError(
                f"quantization: head is int8, which engines of target {Target.ONNXRUNTIME_CPU} can "
                f"have, and target is {self.target}; leave head out"
            )
        return self

    @model_validator(mode="after")
    def _own_kernels_run(self) -> "BuildSpec":
        options = self.tensorrt
        if options is None:
            return self
        chosen = {
            "attention": options.attention is Attention.KERNEL,
            "products": options.products is Products.KERNEL,
        }
        old = options.compute_capability.number < ComputeCapability.SM80.number
        for field in (field for field, own in chosen.items() if own):
            if self.target is not Target.TENSORRT or old:
                raise ValueError(
                    f"tensorrt.{field}: the kernel needs target {Target.TENSORRT} and GPUs from "
                    f"{ComputeCapability.SM80} on, not {self.target} and "
                    f"{options.compute_capability}; set {field} to {Attention.OPERATORS}"
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
