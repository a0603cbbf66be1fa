"""Which of our own kernels a plan takes, by its options."""

from pitcrew_builder.graph.ir import Graph, Kinds
from pitcrew_builder.optimize import join_projections
from pitcrew_builder.spec import Attention, Products, TensorRtPlan
from pitcrew_builder.targets.trt import attention, norms, products

_PRODUCTS_VERSION = "2"
"""Of the kernel for products. Other results in other bits, such as those of `wgmma`, are another engine."""


def versions(options: TensorRtPlan) -> dict[str, str]:
    """What the toolchain of an engine tells of the kernels that were chosen."""
    return {"products-kernel": _PRODUCTS_VERSION} if options.products is Products.KERNEL else {}


def with_joined_products(graph: Graph, options: TensorRtPlan) -> Graph:
    """The graph in float32, with one product where several read the same rows and are ours: a launch
    costs as much as a small matrix. The compiler joins those that it chooses kernels for.
    """
    return join_projections(graph) if options.products is Products.KERNEL else graph


def with_own_kernels(graph: Graph, options: TensorRtPlan, kinds: Kinds) -> Graph:
    """The graph in half precision whose nodes name the kernels that were chosen and know them.

    `kinds` are the weights that are stored narrower.
    """
    if options.attention is Attention.KERNEL:
        graph = attention.offered(graph)
    if options.products is Products.KERNEL:
        graph = norms.offered(products.offered(graph, kinds))
    return graph


def register(options: TensorRtPlan) -> None:
    """Make the kernels that were chosen known to the parser. Needs `tensorrt`."""
    capability = options.compute_capability.number
    if options.attention is Attention.KERNEL:
        attention.register(capability)
    if options.products is Products.KERNEL:
        products.register(capability)
        norms.register(capability)
