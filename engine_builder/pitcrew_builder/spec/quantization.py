"""Narrower weights, and how their codes are found."""

from enum import StrEnum

from pydantic import Field, model_validator

from pitcrew_builder.spec.base import Model
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
