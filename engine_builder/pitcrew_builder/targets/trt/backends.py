"""Targets `tensorrt-rtx` and `tensorrt`: one way from graph to plan, two libraries."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from pitcrew_builder.disk import room_for
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.graph.ir import OPSET, ElementType, Graph
from pitcrew_builder.graph.precision import in_half
from pitcrew_builder.manifest import GraphInterface, PlanReport, SegmentFile
from pitcrew_builder.spec import ComputeCapability, Precision, TensorRt
from pitcrew_builder.targets.onnx_files import file_entry, write_onnx
from pitcrew_builder.targets.target import Network, Proof, Site, Written
from pitcrew_builder.targets.trt import plugins
from pitcrew_builder.targets.trt.collectives import with_native_collectives
from pitcrew_builder.targets.trt.compiler import Compiler, Order
from pitcrew_builder.targets.trt.gpu import compute_capability
from pitcrew_builder.targets.trt.kernel_choice import (
    register,
    versions,
    with_joined_products,
    with_own_kernels,
)
from pitcrew_builder.targets.trt.library import RTX, TENSORRT, Library, Native
from pitcrew_builder.targets.trt.parts import Parts, parts, whole
from pitcrew_builder.targets.trt.profiles import profiles
from pitcrew_builder.targets.trt.report import plan_report
from pitcrew_builder.targets.trt.timing_cache import timing_cache

PLAN = "model.plan"
CUDA = "13"
"""The major version that both libraries are packaged for."""

_LEADS = {Precision.FP16: 0.02, Precision.BF16: 0.1}
"""For float16 measured over all families on a CPU; bfloat16 has three bits less."""

_HALVES = {Precision.FP16: ElementType.FLOAT16, Precision.BF16: ElementType.BFLOAT16}


@dataclass(frozen=True, slots=True)
class PlanBackend:
    """What both targets have in common: compile in half precision, prove in float32."""

    library: ClassVar[Library]
    proven: ClassVar[str] = "the same graph in float32 on onnxruntime-cpu; the plan was not run"

    precision: Precision
    options: TensorRt

    @property
    def lead(self) -> float:
        """What rounding every intermediate value may move a logit by."""
        return _LEADS[self.precision]

    def toolchain(self) -> dict[str, str]:
        """The operators' version, CUDA's and the library's."""
        library = self.library
        return {"onnx-opset": str(OPSET), "cuda": CUDA, library.target.value: library.version()}

    def optimize(self, graph: Graph) -> Graph:
        """As it was drawn where the compiler joins projections by itself; else joined."""
        return with_joined_products(graph, self.options)

    def compiler(self, site: Site) -> Compiler:
        """The compiler, loaded. Raises `InvalidSpec` where it cannot work here."""
        raise NotImplementedError

    def write(self, network: Network, site: Site) -> Written:
        """Write the graph in half precision, and compile that."""
        compiler = self.compiler(site)
        graph = in_half(network.graph, _HALVES[self.precision])
        graph = with_own_kernels(graph, self.options, network.kinds)
        made = self.parts(graph, site)
        half = replace(network, graph=graph)
        with site.tracker.part(0, 2):
            onnx = _write_scratch(half, site, "half", made)
        with site.tracker.part(1, 2):
            report, plans = self._compile(compiler, half, made, onnx, site)
        several = made.are_several
        interface = GraphInterface(
            graph=None if several else plans[0],
            placement=network.placement,
            segments=tuple(
                SegmentFile(graph=plan, exchanges=segment.exchanges)
                for plan, segment in zip(plans, made.segments, strict=True)
                if several
            ),
            kv_dtype=half.kv_dtype,
            lora=network.lora,
            plan=report,
        )
        return Written(interface, tuple(file_entry(site.engine, plan) for plan in plans))

    def parts(self, graph: Graph, site: Site) -> Parts:
        """What of a rank's graph becomes a plan of its own."""
        raise NotImplementedError

    def proof(self, network: Network, written: Written, site: Site) -> Proof:
        """The graph in float32, which ONNX Runtime runs."""
        return Proof(site.scratch / "float32", _write_scratch(network, site, "float32").interface)

    def _compile(
        self, compiler: Compiler, half: Network, made: Parts, onnx: Written, site: Site
    ) -> tuple[PlanReport, list[str]]:
        """The report of all plans, and their paths in the engine."""
        folder = site.engine / site.folder
        folder.mkdir()
        options, identity = self.options, site.identity
        shapes, lora, tag = identity.shapes, identity.lora, identity.tag
        paths = [folder / name for name in _plan_names(made)]
        size = sum(weight.nbytes for weight in half.graph.weights)
        compiled = []
        with room_for(site.engine, size, f"engine {tag}"):
            parts = zip(made.segments, onnx.interface.parts, paths, strict=True)
            for index, (segment, file, plan) in enumerate(parts):
                given = profiles(segment.graph.inputs, shapes, options, lora)
                order = Order(site.scratch / "half" / file.graph, plan, given, options, tag)
                with site.tracker.part(index, len(paths)):
                    advance = partial(site.tracker.advance, message="compiling")
                    compiled.append(compiler.compile(order, advance))
        ports = profiles(half.graph.inputs, shapes, options, lora)
        report = plan_report(half.graph, ports, compiled, paths, made.passed)
        return report, [f"{site.folder}/{path.name}" for path in paths]


class TensorRtRtx(PlanBackend):
    """The backend of target `tensorrt-rtx`: compiles for any GPU, on any machine."""

    __slots__ = ()
    library = RTX

    def compiler(self, site: Site) -> Compiler:
        """A compiler for the GPU of the options, which the library must know."""
        library = self.library.load()
        _check_known(library, self.options.compute_capability)
        return _RtxCompiler(library)

    def parts(self, graph: Graph, site: Site) -> Parts:
        """One plan, in which ranks exchange values by the library's own operator."""
        return whole(with_native_collectives(graph, site.rank))


class TensorRtGpu(PlanBackend):
    """The backend of target `tensorrt`: compiles on a GPU, for GPUs of its kind."""

    __slots__ = ()
    library = TENSORRT

    def toolchain(self) -> dict[str, str]:
        """Our own kernels and plugins too: they are in the plan."""
        return {**super().toolchain(), **versions(self.options), **plugins.versions()}

    def compiler(self, site: Site) -> Compiler:
        """A compiler for the GPU that is here, which must be of the kind that is asked for."""
        library = self.library.load()
        _check_gpu(self.options.compute_capability.value, compute_capability())
        name = f"{self.library.version()}-{self.options.compute_capability}.cache"
        register(self.options)
        return _GpuCompiler(library, site.cache / "tensorrt" / name)

    def parts(self, graph: Graph, site: Site) -> Parts:
        """A plan for all that a rank computes between two exchanges."""
        return parts(graph, site.identity.shapes.kv_page_size)


class _RtxCompiler(Compiler):
    @contextmanager
    def configured(self, config: Native, options: TensorRt) -> Iterator[None]:
        capability = self._library.ComputeCapability.__members__[options.compute_capability.name]
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
        yield


class _GpuCompiler(Compiler):
    def __init__(self, library: Native, cache: Path) -> None:
        super().__init__(library)
        self._cache = cache

    def prepare(self, logger: Native) -> None:
        plugins.register(self._library, logger)

    @contextmanager
    def configured(self, config: Native, options: TensorRt) -> Iterator[None]:
        if not options.timing_cache:
            yield
            return
        with timing_cache(config, self._cache):
            yield


def _check_known(library: Native, wanted: ComputeCapability) -> None:
    known = [name for name in library.ComputeCapability.__members__ if name.startswith("SM")]
    if wanted.name not in known:
        raise InvalidSpec(
            f"tensorrt.computeCapability: this version of TensorRT-RTX does not compile for "
            f"{wanted}; it does for {', '.join(known).lower()}, and target tensorrt for the others"
        )


def _check_gpu(wanted: str, present: str | None) -> None:
    if present is None:
        raise InvalidSpec(
            "target tensorrt measures kernels on a GPU, and this machine has none that the driver "
            "shows; build in a Job whose build.resources ask for nvidia.com/gpu, or choose target "
            "tensorrt-rtx"
        )
    if present != wanted:
        raise InvalidSpec(
            f"tensorrt.computeCapability is {wanted}, and the GPU here is {present}; set it to "
            f"{present}, or build on a node with the other GPU"
        )


def _plan_names(made: Parts) -> list[str]:
    if not made.are_several:
        return [PLAN]
    return [f"segment{index}.plan" for index in range(len(made.segments))]


def _write_scratch(network: Network, site: Site, name: str, made: Parts | None = None) -> Written:
    """The network as ONNX; of a graph without our collectives, the part that is its own."""
    folder = site.scratch / name
    cut = None if made is None else made.segments
    if made is not None and not made.are_several:
        network = replace(network, graph=made.segments[0].graph)
    return write_onnx(
        folder, site.folder, network, site.metadata, site.tracker, cut=cut, passing=True
    )
