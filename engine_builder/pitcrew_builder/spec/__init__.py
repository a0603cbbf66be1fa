"""What to build: the typed request that the operator writes and the builder reads.

Pure: standard library and pydantic. The same `Shapes`, `Parallelism`, `Target` and `Precision`
stand in the LLMEngine resource, so a user's manifest and a build request cannot drift apart.
"""

from pitcrew_builder.spec.base import Model
from pitcrew_builder.spec.build import BuildSpec
from pitcrew_builder.spec.lora import Lora
from pitcrew_builder.spec.network import MAX_RANKS, Parallelism, Precision, Shapes, Target
from pitcrew_builder.spec.platform import Platform
from pitcrew_builder.spec.proof import Prompts, Proof, Task, TaskMetric
from pitcrew_builder.spec.quantization import (
    CacheFormat,
    HeadFormat,
    Quantization,
    QuantizationMethod,
    WeightFormat,
)
from pitcrew_builder.spec.source import (
    Adapter,
    HuggingFaceSource,
    LocalSource,
    S3Location,
    S3Source,
    Source,
)
from pitcrew_builder.spec.tensorrt import (
    Attention,
    ComputeCapability,
    Products,
    TensorRt,
    TensorRtPlan,
    Verbosity,
)

__all__ = [
    "MAX_RANKS",
    "Adapter",
    "Attention",
    "BuildSpec",
    "CacheFormat",
    "ComputeCapability",
    "HeadFormat",
    "HuggingFaceSource",
    "LocalSource",
    "Lora",
    "Model",
    "Parallelism",
    "Platform",
    "Precision",
    "Products",
    "Prompts",
    "Proof",
    "Quantization",
    "QuantizationMethod",
    "S3Location",
    "S3Source",
    "Shapes",
    "Source",
    "Target",
    "Task",
    "TaskMetric",
    "TensorRt",
    "TensorRtPlan",
    "Verbosity",
    "WeightFormat",
]
