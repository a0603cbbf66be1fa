"""Our own kernel for products of rows and matrices, which a plan takes in place of operators."""

from pitcrew_builder.targets.trt.products.offer import offered
from pitcrew_builder.targets.trt.products.plugin import register

__all__ = ["offered", "register"]
