"""Pitcrew's own graph of a checkpoint in half precision, as a file that TensorRT parses."""

import json
from dataclasses import dataclass
from pathlib import Path

from common import configuration, trt

from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.ir import ElementType, Graph, Value
from pitcrew_builder.graph.precision import in_half
from pitcrew_builder.manifest import PlanProfile, ResolvedShapes
from pitcrew_builder.progress import Tracker
from pitcrew_builder.spec import Attention, ComputeCapability, Products, TensorRtPlan
from pitcrew_builder.targets.onnx_files import write_onnx
from pitcrew_builder.targets.target import Network
from pitcrew_builder.targets.trt.kernel_choice import with_joined_products, with_own_kernels
from pitcrew_builder.targets.trt.profiles import profiles

KINDS = {"fp16": ElementType.FLOAT16, "bf16": ElementType.BFLOAT16}


@dataclass(frozen=True)
class Drawn:
    """One network, ready to be parsed."""

    graph: Path
    profiles: tuple[PlanProfile, ...]
    layers: int
    kv_heads: int
    head_dim: int
    vocab: int
    options: TensorRtPlan
    weights: int
    """Bytes that a step reads: all but an embedding that is only looked up in."""


def draw(
    checkpoint: Path,
    directory: Path,
    shapes: ResolvedShapes,
    precision: str,
    chunk: int,
    attention: Attention = Attention.KERNEL,
    products: Products = Products.OPERATORS,
) -> Drawn:
    """Write the network and its weights to `directory`. Kernels are taken once they are registered."""
    raw = json.loads((checkpoint / "config.json").read_text())
    family = FAMILIES[raw["model_type"]]
    config = family.config.model_validate(raw)
    options = TensorRtPlan(
        compute_capability=ComputeCapability.SM90,
        prefill_chunk=chunk,
        attention=attention,
        products=products,
    )
    drawn = with_joined_products(family.graph(config, shapes), options)
    graph = with_own_kernels(in_half(drawn, KINDS[precision]), options, {})
    network = Network(graph, read_tensors(Directory.of(checkpoint)))
    metadata = {"engine_id": "fact", "tag": "fact"}
    written = write_onnx(directory, "rank0", network, metadata, Tracker(lambda _: None))
    heads = raw["num_attention_heads"]
    return Drawn(
        graph=directory / written.interface.graph,
        profiles=profiles(graph.inputs, shapes, options),
        options=options,
        weights=sum(each.nbytes for each in graph.weights if each.name in _multiplied(graph)),
        layers=raw["num_hidden_layers"],
        kv_heads=raw.get("num_key_value_heads", heads),
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        vocab=raw["vocab_size"],
    )


def _multiplied(graph: Graph) -> set[Value]:
    return {name for node in graph.nodes if node.op != "Gather" for name in node.inputs}


@dataclass(frozen=True)
class Parsed:
    """What the parser made, with everything that must outlive it."""

    builder: object
    network: object
    parser: object
    problems: tuple[str, ...]

    @property
    def layers(self) -> list[str]:
        """The kind of every layer, in order."""
        return [self.network.get_layer(i).type.name for i in range(self.network.num_layers)]


def parse(graph: Path, *, creation: tuple = (), parser_flags: tuple = ()) -> Parsed:
    """Parse a file into a strongly typed network."""
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    kinds = (trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED, *creation)
    network = builder.create_network(sum(1 << int(kind) for kind in kinds))
    parser = trt.OnnxParser(network, logger)
    for flag in parser_flags:
        parser.set_flag(flag)
    parser.parse_from_file(str(graph))
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True
    problems = tuple(parser.get_error(i).desc() for i in range(parser.num_errors))
    return Parsed(builder, network, parser, problems)


def compile_plan(parsed: Parsed, drawn: Drawn, *, flags: tuple = (), cache: object = None) -> bytes:
    """The plan with all profiles. Raises `RuntimeError`."""
    config = configuration(parsed.builder)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in flags:
        config.set_flag(flag)
    for profile in drawn.profiles:
        native = parsed.builder.create_optimization_profile()
        for name, shapes in profile.shapes.items():
            native.set_shape(name, *shapes)
        config.add_optimization_profile(native)
    plan = parsed.builder.build_serialized_network(parsed.network, config)
    if plan is None:
        raise RuntimeError("TensorRT does not build the network; its log says why")
    return bytes(plan)
