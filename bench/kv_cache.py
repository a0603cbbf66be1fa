"""How the steps of a narrow KV cache are best chosen, and what it gives in memory and speed.

Quality is judged as in `bench/quantization.py`, whose documents these are: some give the ranges,
others judge, in windows of 256. Here the graphs round keys and values and keep them as
floats, so that also steps can be compared that no engine has: one for each token and head, found as
it comes. Speed is one decoding step of built engines over pages, which take turns.
"""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from quantization import SAMPLE, WINDOW, Judge, Variant, build_variant, token_ids, write_prompts
from rich.console import Console
from rich.table import Table

from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.families.llama import LlamaConfig
from pitcrew_builder.graph.ir import ElementType, Graph, Literal, Node, Value
from pitcrew_builder.manifest import Manifest
from pitcrew_builder.network import Executable
from pitcrew_builder.pools import Pools
from pitcrew_builder.progress import Tracker
from pitcrew_builder.quantize.cache import Reach, observe_cache, steps
from pitcrew_builder.quantize.grid import Floats, Grid
from pitcrew_builder.quantize.observe import Calibration
from pitcrew_builder.targets.onnx_files import GRAPH, write_onnx
from pitcrew_builder.targets.target import Network

KINDS = (ElementType.INT8, ElementType.FLOAT8)
STEPS = ("a tensor", "a head", "a channel", "a token and head")
ENGINES = (
    Variant("float32", None),
    Variant("int8", {"kvCache": "int8"}, "own"),
    Variant("fp8", {"kvCache": "fp8"}, "own"),
)
CALIBRATING = 64
"""Windows that ranges are taken from."""
BATCH, CONTEXTS, ROUNDS = 8, (64, 256, 1008), 15


def main() -> None:
    """Measure and print."""
    documents = (SAMPLE / "heldout-text.txt").read_text().split("\n\f\n")
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        own, judging = documents[2::4], documents[0::4]
        files = write_prompts(work, own, judging)
        engines = [build_variant(work, files, variant) for variant in ENGINES]
        judge = Judge(*engines[0], token_ids(judging))
        console.print(_choices(work, judge, engines[0][1], token_ids(own)))
        console.print(_speeds(engines))
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"medians of {ROUNDS} rounds"
    )


def _choices(work: Path, judge: Judge, manifest: Manifest, ids: np.ndarray) -> Table:
    table = Table(title="tiny-kjv, held-out text: which numbers share a step")
    for column in ("codes", "a step for", "perplexity", "change", "top-1", "KL"):
        table.add_column(column, justify="left" if column in ("codes", "a step for") else "right")
    shapes = manifest.identity.shapes
    graph = FAMILIES["llama"].graph(
        LlamaConfig.model_validate_json((SAMPLE / "config.json").read_text()), shapes
    )
    network = Network(graph, read_tensors(Directory.of(SAMPLE)))
    _write(work / "plain", network)
    texts = ids[: CALIBRATING * WINDOW].reshape(-1, WINDOW).tolist()
    calibration = Calibration(
        graph, work / "plain/rank0", manifest.model, shapes.kv_page_size, texts
    )
    reaches = observe_cache(calibration, lambda _: None)
    for kind in KINDS:
        for choice in STEPS:
            root = work / f"{kind}-{choice}"
            _write(root, replace(network, graph=_rounding(graph, kind, choice, reaches)))
            tally = judge.tally(root, manifest)
            table.add_row(
                kind,
                choice,
                f"{tally.perplexity:.3f}",
                f"{100 * (tally.perplexity / tally.reference_perplexity - 1):+.2f} %",
                f"{100 * tally.top1_agreement:.1f} %",
                f"{tally.kl_divergence:.5f}",
            )
    return table


def _write(root: Path, network: Network) -> None:
    write_onnx(root, "rank0", network, {"tag": root.name}, Tracker(lambda _: None))
    assert (root / "rank0" / GRAPH).exists()


def _rounding(graph: Graph, kind: ElementType, choice: str, reaches: dict[int, Reach]) -> Graph:
    """The graph with keys and values that are rounded before anybody reads them."""
    unit = Literal(Value("unit"), np.ones((), np.float32))
    zero = Literal(Value("zero"), np.zeros((), kind.dtype))
    literals, rounded, after = [unit, zero], {}, {}
    for node in graph.nodes:
        pools = [name for name in node.inputs if name.startswith("key_pool.")]
        if not pools:
            continue
        reach = reaches[int(pools[0].partition(".")[2])]
        for value, most in ((node.inputs[1], reach.keys), (node.inputs[2], reach.values)):
            nodes, constants, result = _rounded(value, most, kind, choice)
            literals += constants
            rounded[value] = result
            after[value] = nodes
    nodes = []
    for node in graph.nodes:
        nodes.append(replace(node, inputs=tuple(rounded.get(name, name) for name in node.inputs)))
        for output in node.outputs:
            nodes += after.get(output, [])
    return replace(graph, nodes=tuple(nodes), literals=(*graph.literals, *literals))


def _rounded(
    value: Value, most: Floats, kind: ElementType, choice: str
) -> tuple[list[Node], list[Literal], Value]:
    """Nodes from `value` [B, S, kv_heads * D] to the same, rounded; and their constants."""
    nodes: list[Node] = []
    literals: list[Literal] = []

    def literal(name: str, array: np.ndarray) -> Value:
        literals.append(Literal(Value(f"{value}/{name}"), array))
        return literals[-1].name

    def op(kind_of: str, *inputs: Value, **attributes: int) -> Value:
        name = Value(f"{value}/round{len(nodes)}")
        nodes.append(Node(kind_of, name, inputs, (name,), tuple(attributes.items())))
        return name

    split = op("Reshape", value, literal("heads", np.array([0, 0, *most.shape])))
    if choice == "a token and head":
        reach = op("ReduceMax", op("Abs", split), literal("axis", np.array([-1])), keepdims=1)
        step = op("Div", reach, literal("limit", np.float32(Grid(kind, 1).limit).reshape(())))
        step = op("Max", step, literal("least", np.float32(1e-9).reshape(())))
    else:
        axes = {"a tensor": (0, 1), "a head": (1,), "a channel": ()}[choice]
        shared = np.broadcast_to(most.max(axis=axes, keepdims=True) if axes else most, most.shape)
        step = literal("steps", steps(np.ascontiguousarray(shared), kind))
    codes = op("QuantizeLinear", op("Div", split, step), Value("unit"), Value("zero"))
    wide = op("Mul", op("DequantizeLinear", codes, Value("unit"), Value("zero")), step)
    return nodes, literals, op("Reshape", wide, literal("flat", np.array([0, 0, most.size])))


def _speeds(engines: list[tuple[Path, Manifest]]) -> Table:
    table = Table(title=f"one decoding step of {BATCH} sequences")
    for column in ("KV cache", "bytes/token", *(f"ms at {context}" for context in CONTEXTS)):
        table.add_column(column, justify="left" if column == "KV cache" else "right")
    networks = [
        Executable(root / manifest.ranks[0].graph, packed=True) for root, manifest in engines
    ]
    times = [list(_milliseconds(networks, engines[0][1], context)) for context in CONTEXTS]
    for index, (variant, (_, manifest)) in enumerate(zip(ENGINES, engines, strict=True)):
        taken = (f"{each[index]:.2f}" for each in times)
        table.add_row(variant.name, f"{manifest.kv_bytes_per_token:,}", *taken)
    return table


def _milliseconds(networks: list[Executable], manifest: Manifest, context: int) -> Iterator[float]:
    page = manifest.identity.shapes.kv_page_size
    blocks = -(-context // page)
    feeds = {
        "input_ids": np.full((BATCH, 1), 300),
        "positions": np.full((BATCH, 1), context),
        "block_tables": np.arange(BATCH * blocks).reshape(BATCH, blocks),
        "context_lengths": np.full(BATCH, context),
        "logit_indices": np.zeros((BATCH, 1), np.int64),
    }
    pools = [Pools(manifest.model, item.pool_dtype, BATCH * blocks, page) for item in networks]
    taken: list[list[float]] = [[] for _ in networks]
    for _ in range(ROUNDS + 1):
        for network, pool, list_of in zip(networks, pools, taken, strict=True):
            begun = time.perf_counter()
            network.run({**feeds, **pool.arrays})
            list_of.append(1000 * (time.perf_counter() - begun))
    # The first round warms up.
    return (statistics.median(each[1:]) for each in taken)


if __name__ == "__main__":
    main()
