"""Products of rows and matrices as model-local functions, for targets that bring a kernel for them.

Blocks draw `Gemm`, and a target rewrites what its kernel knows. The bodies are what the kernels
compute: matrices lie by outputs, as in the checkpoint.
"""

from pitcrew_builder.blocks.plugin import PLUGIN
from pitcrew_builder.graph.body import given_float, node, values
from pitcrew_builder.graph.ir import Function

PRODUCT = Function(
    domain="llm",
    name="Product",
    inputs=values("rows matrix"),
    outputs=values("product"),
    attributes=tuple(PLUGIN),
    nodes=(node("Gemm", "rows matrix", "product", transB=1),),
)
"""[T, K] and [N, K] to [T, N]."""

BIASED_PRODUCT = Function(
    domain="llm",
    name="BiasedProduct",
    inputs=values("rows matrix bias"),
    outputs=values("product"),
    attributes=tuple(PLUGIN),
    nodes=(node("Gemm", "rows matrix bias", "product", transB=1),),
)
"""The same plus [N]."""

EXPERT_PRODUCTS = Function(
    domain="llm",
    name="ExpertProducts",
    inputs=values("rows matrix"),
    outputs=values("product"),
    attributes=tuple(PLUGIN),
    nodes=(
        node("Transpose", "matrix", "turned", perm=(0, 2, 1)),
        node("MatMul", "rows turned", "product"),
    ),
)
"""[T, K] or [E, T, K], and [E, N, K], to [E, T, N]."""

RMS_NORM = Function(
    domain="llm",
    name="RmsNorm",
    inputs=values("rows scale small"),
    outputs=values("normed"),
    attributes=("epsilon", *PLUGIN),
    nodes=(
        node("RMSNormalization", "rows scale", "normed", axis=-1, epsilon=given_float("epsilon")),
    ),
)
"""[..., W] scaled by [W]; `small` is epsilon again, a float32 [1] for kernels, which get no attributes."""
