"""What decides the bytes of an engine, and the names that follow from it."""

import hashlib
import json
import re

from pydantic import Field

from pitcrew_builder.manifest.wording import short_id
from pitcrew_builder.spec import (
    CacheFormat,
    Lora,
    Model,
    Parallelism,
    Platform,
    Precision,
    QuantizationMethod,
    Target,
    TensorRtPlan,
    WeightFormat,
)
from pitcrew_builder.spec.base import is_none


class ResolvedShapes(Model):
    """`Shapes` with every default decided."""

    max_batch_size: int
    max_sequence_length: int
    kv_page_size: int


class ImportedCodes(Model):
    """How the checkpoint was quantized before it came here; its codes are kept."""

    method: str = Field(description="Its `quant_method`, such as `gptq`.")
    bits: int
    group_size: int | None = Field(description="Inputs that share a scale; null: all of them.")
    zero_points: bool = Field(description="Whether groups may have one of their own.")
    act_order: bool = Field(description="Whether groups gather inputs from anywhere.")


class QuantizationRecipe(Model):
    """`Quantization` with every default decided, and what it was calibrated on."""

    weights: WeightFormat | None
    method: QuantizationMethod | None = Field(description="Null where weights are.")
    block_size: int
    imported: ImportedCodes | None = Field(default=None, exclude_if=is_none)
    head: WeightFormat | None = Field(
        default=None, exclude_if=is_none, description="Of the LM head, where it is narrow."
    )
    kv_cache: CacheFormat | None = Field(default=None, exclude_if=is_none)
    calibration_sha256: str | None = Field(
        default=None, description="Digest of the prompts that were calibrated on."
    )

    @property
    def calibrates_weights(self) -> bool:
        """Whether activations decided anything about matrices."""
        calibrated = (QuantizationMethod.AWQ, QuantizationMethod.GPTQ)
        by_activations = self.weights is WeightFormat.FP8 or self.method in calibrated
        return by_activations and self.imported is None

    @property
    def tag(self) -> str:
        """For people, such as `int4-awq-kvfp8`; plain rounding goes without saying."""
        parts = [self.weights, None if self.method is QuantizationMethod.ROUND else self.method]
        cache = [f"kv{self.kv_cache}"] if self.kv_cache else []
        return "-".join([*(part.value for part in parts if part), *cache])


class MergedAdapter(Model):
    """A LoRA adapter whose change is in the weights."""

    model: str = Field(description="The adapter's own name.")
    commit: str = Field(description="40 hex digits, as those of the checkpoint.")
    inputs: dict[str, str] = Field(description="Adapter file -> sha256.")
    weight: str = Field(description="What its change was multiplied by, as a decimal.")


class Identity(Model):
    """Everything that decides the bytes of an engine. Its hash is the engine id."""

    model: str
    commit: str = Field(description="40 hex digits: the hub's commit, or the digest of the files.")
    inputs: dict[str, str] = Field(description="Checkpoint file -> sha256.")
    target: Target
    precision: Precision
    parallelism: Parallelism
    shapes: ResolvedShapes
    toolchain: dict[str, str] = Field(description="Compiler and runtime versions by name.")
    builder_version: str
    adapters: tuple[MergedAdapter, ...] = ()
    lora: Lora | None = None
    tensorrt: TensorRtPlan | None = None
    quantization: QuantizationRecipe | None = None
    platform: Platform | None = Field(
        default=None, description="The machines that the plan was tuned on, where they were named."
    )
    proof_sha256: str | None = Field(
        default=None, description="Digest of the held-out prompts whose scores the manifest has."
    )
    tasks_sha256: str | None = Field(
        default=None, description="Digest of the tasks whose scores the manifest has."
    )

    @property
    def engine_id(self) -> str:
        """64 hex digits, equal for equal inputs on every machine."""
        document = self.model_dump(mode="json", by_alias=True, exclude=self._unset())
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _unset(self) -> set[str]:
        """Optional fields at their default: the hash leaves them out, so that a new version's new
        field changes no old engine's id.
        """
        fields = type(self).model_fields.items()
        optional = {name: field.default for name, field in fields if not field.is_required()}
        return {name for name, default in optional.items() if getattr(self, name) == default}

    @property
    def target_tag(self) -> str:
        """Toolchain, layout and precision for people, such as `cpu-ort1.32.0-fp32` or
        `cuda13-trt10.15.1.29-sm90-tp2-bf16`.
        """
        layout = [
            f"{short}{degree}"
            for short, degree in (
                ("tp", self.parallelism.tensor),
                ("pp", self.parallelism.pipeline),
                ("ep", self.parallelism.expert),
            )
            if degree > 1
        ]
        narrow = [self.quantization.tag] if self.quantization else []
        merged = [f"lora{len(self.adapters)}"] if self.adapters else []
        slots = [f"slots{self.lora.max_adapters}r{self.lora.max_rank}"] if self.lora else []
        return "-".join([*self._tools, *layout, self.precision.value, *narrow, *merged, *slots])

    @property
    def _tools(self) -> list[str]:
        if self.tensorrt is None:
            return ["cpu", f"ort{self.toolchain['onnxruntime']}"]
        label = "rtx" if self.target is Target.TENSORRT_RTX else "trt"
        return [
            f"cuda{self.toolchain['cuda']}",
            f"{label}{self.toolchain[self.target.value]}",
            self.tensorrt.compute_capability.value,
        ]

    @property
    def tag(self) -> str:
        """Model, commit and target in one word, such as `tiny-kjv-0e9e39f-cpu-ort1.32.0-fp32`."""
        return f"{self.slug}-{self.commit[:7]}-{self.target_tag}"

    @property
    def slug(self) -> str:
        """The model's name as one lower-case path segment."""
        name = self.model.rsplit("/", 1)[-1].lower()
        return re.sub(r"[^a-z0-9.]+", "-", name).strip("-.") or "model"

    @property
    def relative_path(self) -> str:
        """Where the engine lies under the store's root."""
        return f"{self.slug}/{short_id(self.commit)}/{self.target_tag}/{short_id(self.engine_id)}"
