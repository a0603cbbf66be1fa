"""ONNX Runtime on a CPU: the drawn graph itself, in float32.

A build that finds its engine asks for the toolchain alone, so slow imports wait until they are used.
"""

from dataclasses import replace
from importlib.metadata import version

from pitcrew_builder.graph.ir import OPSET, Graph, Kinds
from pitcrew_builder.targets.target import Network, Proof, Site, Written

_DECODING_FORM = "2"
"""Counts what `contiguous` makes of a graph: another number, another engine."""


class OnnxRuntimeCpu:
    """The backend of target `onnxruntime-cpu`."""

    proven = "engine"
    lead = 0.0

    def toolchain(self) -> dict[str, str]:
        """The operators' version, the runtime's, and that of the form that decodes."""
        return {
            "onnx-opset": str(OPSET),
            "onnxruntime": version("onnxruntime"),
            "decoding-form": _DECODING_FORM,
        }

    def optimize(self, graph: Graph) -> Graph:
        """Join projections; the runtime fuses the rest by itself."""
        from pitcrew_builder.optimize import optimize

        return optimize(graph)

    def write(self, network: Network, site: Site) -> Written:
        """Write the graph and its constants, and for a network that is not split the form with
        contexts in place of pages beside it. Matrices stay in the checkpoint's half precision.
        """
        from pitcrew_builder.targets.onnx_files import write_onnx

        kept = replace(network, kinds=_kinds(network))
        return write_onnx(
            site.engine, site.folder, kept, site.metadata, site.tracker, _contiguous(network)
        )

    def proof(self, network: Network, written: Written, site: Site) -> Proof:
        """The engine's own files, as they are served.

        Halves that nothing is quantized of are widened into scratch, and the graph runs over that:
        mapped from a file it needs no memory, where the engine itself would take all of it.
        """
        from pitcrew_builder.serialize import place
        from pitcrew_builder.targets.onnx_files import DATA, write_onnx
        from pitcrew_builder.targets.storage import as_stored, read_back

        kinds = _kinds(network)
        if not kinds or site.identity.quantization is not None:
            return Proof(site.engine, written.interface)
        extents = place(as_stored(network.graph, kinds))
        graph, tensors = read_back(network.graph, kinds, extents, site.engine / site.folder / DATA)
        wide = replace(network, graph=graph, tensors=tensors)
        copy = write_onnx(
            site.scratch / "widened",
            site.folder,
            wide,
            site.metadata,
            site.tracker,
            _contiguous(wide),
            passing=True,
        )
        return Proof(site.scratch / "widened", copy.interface)


def _kinds(network: Network) -> Kinds:
    from pitcrew_builder.targets.storage import kept_kinds

    return kept_kinds(network.graph, lambda name: network.tensors[name].dtype)


def _contiguous(network: Network) -> Graph | None:
    from pitcrew_builder.targets.contiguous import contiguous

    return contiguous(network.graph) if network.placement is None else None
