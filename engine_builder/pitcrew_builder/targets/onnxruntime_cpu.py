"""ONNX Runtime on a CPU: the drawn graph itself, in float32.

A build that finds its engine asks for the toolchain alone, so slow imports wait until they are used.
"""

from importlib.metadata import version

from pitcrew_builder.graph.ir import OPSET, Graph
from pitcrew_builder.targets.target import Network, Site, Written


class OnnxRuntimeCpu:
    """The backend of target `onnxruntime-cpu`."""

    proven = "engine"
    lead = 0.0

    def toolchain(self) -> dict[str, str]:
        """The operators' version and the runtime's."""
        return {"onnx-opset": str(OPSET), "onnxruntime": version("onnxruntime")}

    def optimize(self, graph: Graph) -> Graph:
        """Join projections; the runtime fuses the rest by itself."""
        from pitcrew_builder.optimize import optimize

        return optimize(graph)

    def write(self, network: Network, site: Site) -> Written:
        """Write the graph and its constants, and for a network that is not split the form with
        contexts in place of pages beside it; the canary holds the runtime to what was proven.
        """
        from pitcrew_builder.targets.contiguous import contiguous
        from pitcrew_builder.targets.onnx_files import write_onnx

        other = contiguous(network.graph) if network.placement is None else None
        return write_onnx(site.engine, site.folder, network, site.metadata, site.tracker, other)
