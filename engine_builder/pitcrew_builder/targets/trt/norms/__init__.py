"""Our own kernel for RMS norms, beside products that are ours too."""

from pitcrew_builder.targets.trt.norms.offer import offered
from pitcrew_builder.targets.trt.norms.plugin import register

__all__ = ["offered", "register"]
