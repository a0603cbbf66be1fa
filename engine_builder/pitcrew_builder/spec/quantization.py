"""Narrower weights and a narrower KV cache, and how their codes are found."""

from enum import StrEnum

from pydantic import Field, model_validator

from pitcrew_builder.spec.base import Model, is_none
from pitcrew_builder.spec.proof import Prompts


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


class HeadFormat(StrEnum):
    """What the LM head's matrix is stored as beside narrow matrices of the layers."""

    INT8 = "int8"
    WIDE = "wide"


class CacheFormat(StrEnum):
    """What keys and values are stored as."""

    FP8 = "fp8"
    INT8 = "int8"


class Quantization(Model):
    """Narrower weights, a narrower KV cache, or both, and how they are found."""

    weights: WeightFormat | None = Field(
        default=None,
        description="fp8: weights and activations in E4M3. int8, int4: weights alone. Default: as "
        "precision says.",
    )
    head: HeadFormat | None = Field(
        default=None,
        exclude_if=is_none,
        description="The LM head, beside int4 or int8 weights: int8, rounded with a scale for each "
        "token, or wide, as precision says. Default: int8 for target onnxruntime-cpu, else wide.",
    )
    kv_cache: CacheFormat | None = Field(
        default=None,
        exclude_if=is_none,
        description="Keys and values in one byte each, by ranges of the calibration prompts. "
        "Default: as precision says.",
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
        default=None, description="Prompts of the users; awq, gptq, fp8 and kvCache need them."
    )

    @property
    def chosen_method(self) -> QuantizationMethod | None:
        """The method, with its default decided; None where weights stay as they are."""
        if self.weights is None or self.method is not None:
            return self.method
        if self.weights is WeightFormat.FP8:
            return QuantizationMethod.GPTQ
        calibrated = self.weights is WeightFormat.INT4 and self.calibration is not None
        return QuantizationMethod.AWQ if calibrated else QuantizationMethod.ROUND

    @property
    def has_integers(self) -> bool:
        """Whether codes of weights are integers."""
        return self.weights in (WeightFormat.INT8, WeightFormat.INT4)

    @property
    def calibrates_weights(self) -> bool:
        """Whether activations decide anything about matrices."""
        calibrated = (QuantizationMethod.AWQ, QuantizationMethod.GPTQ)
        return self.weights is WeightFormat.FP8 or self.chosen_method in calibrated

    @property
    def needs_calibration(self) -> bool:
        """Whether activations decide anything."""
        return self.calibrates_weights or self.kv_cache is not None

    @model_validator(mode="after")
    def _narrows_something(self) -> "Quantization":
        if self.weights is None and self.kv_cache is None:
            raise ValueError(
                "neither weights nor kvCache is set; set one of them, or leave quantization out"
            )
        if self.weights is None and self.method is not None:
            raise ValueError(
                f"method {self.method} is how weights are found, and they stay as they are; set "
                f"weights, or leave method out"
            )
        return self

    @model_validator(mode="after")
    def _head_goes_with_integers(self) -> "Quantization":
        if self.head is HeadFormat.INT8 and not self.has_integers:
            raise ValueError(
                f"head is int8 beside weights {self.weights or 'as they are'}; set weights to int4 "
                f"or int8, or leave head out"
            )
        return self

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
            what = (
                f"{self.weights} by {self.chosen_method} reads activations"
                if self.calibrates_weights
                else f"kvCache {self.kv_cache} takes the ranges of keys and values"
            )
            raise ValueError(f"{what} of your users' prompts; set calibration")
        return self
