"""Builds plans through the command line, as the build Job does."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.cli import main
from pitcrew_builder.graph.ir import Graph
from pitcrew_builder.manifest import Identity, Manifest, ResolvedShapes
from pitcrew_builder.progress import Tracker
from pitcrew_builder.report import Failed, Succeeded, parse_outcome
from pitcrew_builder.spec import ComputeCapability, Parallelism, Precision, Target, TensorRt
from pitcrew_builder.store import open_engine
from pitcrew_builder.targets.target import Network, Site, Written
from pitcrew_builder.targets.trt.backends import TensorRtRtx
from tests.unit.builder import checkpoints

ROOT = Path(__file__).parents[3]
GOLDENS = ROOT / "tests/golden/data"
SAMPLE = ROOT / "samples/models/tiny-kjv"
VOCAB = 2048
"""Of the sample's tokenizer."""


@dataclass(frozen=True)
class Workshop:
    """One store and one cache."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    def arguments(self, checkpoint: Path, **spec: object) -> list[str]:
        """The command for a plan of a checkpoint; `spec` adds to the spec's document."""
        document = {
            "source": {"kind": "local", "path": str(checkpoint), "name": checkpoint.name},
            "shapes": {"maxBatchSize": 2, "maxSequenceLength": 64, "kvPageSize": 8},
        } | spec
        places = ["--store", str(self.store), "--cache", str(self.root / "cache")]
        return ["build", "--spec-json", json.dumps(document), *places, *self._told]

    def build(self, checkpoint: Path, **spec: object) -> Succeeded | Failed:
        main(self.arguments(checkpoint, **spec))
        return self.outcome()

    def publish(self, checkpoint: Path, **spec: object) -> tuple[Path, Manifest]:
        """Build and open what was published."""
        outcome = self.build(checkpoint, **spec)
        assert isinstance(outcome, Succeeded), outcome
        return self.store / outcome.path, open_engine(self.store / outcome.path)

    def outcome(self) -> Succeeded | Failed:
        parsed = parse_outcome((self.root / "outcome.json").read_text())
        assert parsed is not None
        return parsed

    @property
    def _told(self) -> list[str]:
        return ["--outcome", str(self.root / "outcome.json"), "--progress", "json"]


def rtx(precision: str = "fp16", capability: str = "sm89", **options: object) -> dict[str, object]:
    """The part of a spec that asks for TensorRT-RTX."""
    return {
        "target": "tensorrt-rtx",
        "precision": precision,
        "tensorrt": {"computeCapability": capability, **options},
    }


def compile_rtx(graph: Graph, checkpoint: Path, shapes: ResolvedShapes, root: Path) -> Written:
    """A float32 graph of a checkpoint as a plan in float16 for sm89, without a build around it."""
    options = TensorRt(compute_capability=ComputeCapability.SM89)
    backend = TensorRtRtx(Precision.FP16, options)
    identity = Identity(
        model=checkpoint.name,
        commit="0" * 40,
        inputs={},
        target=Target.TENSORRT_RTX,
        precision=backend.precision,
        parallelism=Parallelism(),
        shapes=shapes,
        toolchain=backend.toolchain(),
        builder_version="0",
        tensorrt=options.plan,
    )
    engine, scratch = root / "engine", root / "scratch"
    engine.mkdir()
    scratch.mkdir()
    site = Site(engine, scratch, root / "cache", identity, Tracker(lambda _: None))
    return backend.write(Network(graph, read_tensors(Directory.of(checkpoint))), site)


def llama(directory: Path, heads: int, kv_heads: int, head_dim: int = 16) -> Path:
    """A random Llama of two layers, hidden 64, with these heads and the sample's tokenizer."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (VOCAB, 64), "lm_head.weight": (VOCAB, 64)}
    for layer in range(2):
        shapes |= dict(_matrices(f"model.layers.{layer}", heads * head_dim, kv_heads * head_dim))
    norms = [
        f"model.layers.{layer}.{name}_layernorm.weight"
        for layer in range(2)
        for name in ("input", "post_attention")
    ]
    weights = {
        name: 0.1 * rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()
    }
    weights |= {name: np.ones(64, np.float32) for name in (*norms, "model.norm.weight")}
    checkpoints.write(
        directory,
        weights,
        hidden_size=64,
        intermediate_size=96,
        vocab_size=VOCAB,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
    )
    shutil.copy(SAMPLE / "tokenizer.json", directory)
    return directory


def _matrices(prefix: str, query: int, kv: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield f"{prefix}.self_attn.q_proj.weight", (query, 64)
    yield f"{prefix}.self_attn.k_proj.weight", (kv, 64)
    yield f"{prefix}.self_attn.v_proj.weight", (kv, 64)
    yield f"{prefix}.self_attn.o_proj.weight", (64, query)
    yield f"{prefix}.mlp.gate_proj.weight", (96, 64)
    yield f"{prefix}.mlp.up_proj.weight", (96, 64)
    yield f"{prefix}.mlp.down_proj.weight", (64, 96)
