"""`llm::PagedAttention` as a kernel of ours that is baked into a TensorRT plan."""

from pitcrew_builder.targets.trt.attention.offer import offered
from pitcrew_builder.targets.trt.attention.plugin import register

__all__ = ["offered", "register"]
