"""How far TensorRT-RTX fuses a Llama block: operators before, kernels after.

Builds plans of a random Llama with the block of Llama 3.2 1B (hidden 2048, 32 heads, 8 KV heads)
and reads from each plan what it launches; no GPU is needed or used. "Operators" are counted twice:
as drawn, where a norm, a rotation and an attention are one operator each, and as primitives, where
ONNX's own definitions of these three are opened, which is what exporters without them write. Of
the primitives only those count that give numbers of the model, not shapes and indices; constants,
identities and conversions count nowhere. The bar, kernels of at most a fifth, is about primitives.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
from build import Width, write
from onnx import helper, inliner, shape_inference
from rich.console import Console
from rich.table import Table

from pitcrew_builder.families import FAMILIES
from pitcrew_builder.graph.proto import to_proto
from pitcrew_builder.manifest import BlockFusion, ResolvedShapes
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.serialize import place
from pitcrew_builder.spec import BuildSpec
from pitcrew_builder.store import open_engine

BAR = 0.20
LAYERS = 3
BLOCK = "layers.1"
"""One in the middle: the first and the last fuse with what stands beside them."""

WIDTH = Width(hidden=2048, intermediate=8192, kv=512, vocab=2048, heads=32)
FUNCTIONS = [("", "RMSNormalization"), ("", "RotaryEmbedding"), ("", "Attention")]
IDLE = {"Constant", "Identity", "Cast", "CastLike"}


@dataclass(frozen=True)
class Plan:
    """One plan of the model."""

    capability: str
    precision: str
    size: int
    seconds: float
    block: BlockFusion


def main() -> int:
    """Measure and print; 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capability", nargs="+", default=["sm89", "sm120"])
    parser.add_argument("--precision", nargs="+", default=["fp16", "bf16"])
    parser.add_argument("--directory", type=Path, help="where to work (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        checkpoint = Path(work, "llama")
        write(checkpoint, WIDTH, LAYERS)
        primitives = count_primitives(checkpoint)
        plans = [
            compile_plan(checkpoint, Path(work), capability, precision)
            for capability in options.capability
            for precision in options.precision
        ]
    return show(primitives, plans)


def compile_plan(checkpoint: Path, work: Path, capability: str, precision: str) -> Plan:
    """Build one engine and read its manifest."""
    spec = BuildSpec.model_validate(
        {
            "source": {"kind": "local", "path": str(checkpoint), "name": "llama"},
            "target": "tensorrt-rtx",
            "precision": precision,
            "tensorrt": {"computeCapability": capability},
        }
    )
    done = build(spec, Places(work / "store", work / "cache"), Tracker(lambda _: None))
    manifest = open_engine(work / "store" / done.path, digests=False)
    report = manifest.ranks[0].plan
    assert report is not None
    block = next(block for block in report.blocks if block.block == BLOCK)
    return Plan(capability, precision, manifest.size_bytes, done.seconds, block)


def count_primitives(checkpoint: Path) -> int:
    """Primitive operators of one block: those of two layers less those of one."""
    deep, shallow = (_primitives(checkpoint, layers) for layers in (2, 1))
    return sum((deep - shallow).values())


def _primitives(checkpoint: Path, layers: int) -> Counter[str]:
    raw = json.loads((checkpoint / "config.json").read_text()) | {"num_hidden_layers": layers}
    family = FAMILIES["llama"]
    shapes = ResolvedShapes(max_batch_size=1, max_sequence_length=64, kv_page_size=16)
    graph = family.graph(family.config.model_validate(raw), shapes)
    model = inliner.inline_local_functions(to_proto(graph, place(graph), "data", {}))
    opened = inliner.inline_selected_functions(
        _typed(model), FUNCTIONS, inline_schema_functions=True
    )
    types = {item.name: item.type.tensor_type.elem_type for item in _typed(opened).graph.value_info}
    return Counter(
        node.op_type
        for node in opened.graph.node
        if node.op_type not in IDLE and types.get(node.output[0]) == onnx.TensorProto.FLOAT
    )


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every value's type stated: definitions depend on it."""
    model.graph.value_info.extend(
        helper.make_tensor_value_info(item.name, item.data_type, list(item.dims))
        for item in model.graph.initializer
    )
    return shape_inference.infer_shapes(model)


def show(primitives: int, plans: list[Plan]) -> int:
    """Print the table and say whether the bar is met."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, no GPU used"
    table = Table(title=f"One Llama block under TensorRT-RTX ({machine})", title_justify="left")
    headings = ("GPU", "precision", "primitives", "drawn", "layers", "kernels", "of primitives")
    for heading in (*headings, "of drawn", "plan MB", "build s"):
        table.add_column(heading, justify="right")
    worst = 0.0
    for plan in plans:
        kernels = plan.block.kernels
        if not kernels:
            raise SystemExit("this version's plans do not tell their kernels")
        worst = max(worst, max(kernels) / primitives)
        table.add_row(
            plan.capability,
            plan.precision,
            str(primitives),
            str(plan.block.operators),
            str(plan.block.layers),
            " / ".join(map(str, kernels)),
            " / ".join(f"{count / primitives:.0%}" for count in kernels),
            " / ".join(f"{count / plan.block.operators:.0%}" for count in kernels),
            f"{plan.size / 1e6:.0f}",
            f"{plan.seconds:.1f}",
        )
    console = Console(width=120)
    console.print(table)
    met = worst <= BAR
    console.print(
        f"kernels are given for prefill / decode; at most {worst:.0%} of the primitives, "
        f"{'within' if met else 'beyond'} the bar of {BAR:.0%}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
