"""What an engine's graph is said to hold agrees with what it holds."""

import re
from pathlib import Path

import pytest

from pitcrew_builder.explain.page import page
from pitcrew_builder.explain.summary import Explained, blocks, explain, short
from pitcrew_builder.graph.parts import Part, part_of
from pitcrew_builder.manifest import (
    BlockFusion,
    BlockKernels,
    KernelLaunch,
    PlanProfile,
    PlanReport,
    ProofReport,
    QuantizationReport,
    QuantizedMatrix,
    Score,
    StoredBytes,
)
from pitcrew_builder.store import Store
from tests.unit.builder import checkpoints
from tests.unit.builder.conftest import Run


@pytest.fixture
def explained(tmp_path: Path, run_build: Run) -> Explained:
    build = run_build(checkpoints.write(tmp_path / "tiny"))
    return explain(Store(build.store), build.succeeded.path)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.embed_tokens.weight", Part.EMBEDDING),
        ("model.embed_tokens.weight/bfloat16", Part.EMBEDDING),
        ("model.embed_tokens.weight/codes", Part.HEAD),
        ("model.embed_tokens.weight/scales", Part.HEAD),
        ("model.layers.3.self_attn.q_proj.weight", Part.ATTENTION),
        ("model.layers.3.self_attn.q_norm.weight", Part.NORMS),
        ("model.layers.3.mlp.gate_proj.weight+model.layers.3.mlp.up_proj.weight", Part.MLP),
        ("model.layers.3.mlp.experts.7.down_proj.weight", Part.EXPERTS),
        ("model.layers.3.mlp.gate.weight", Part.EXPERTS),
        ("model.norm.weight", Part.NORMS),
        ("lm_head.weight", Part.HEAD),
        ("rope.cos", Part.TABLES),
        ("literal.4", Part.TABLES),
    ],
)
def test_names_tell_the_class(name: str, part: Part) -> None:
    assert part_of(name) is part


def test_every_byte_of_the_weights_is_in_one_class(explained: Explained) -> None:
    weights = checkpoints.tensors()
    expected = dict.fromkeys(Part, 0)
    for name, array in weights.items():
        expected[part_of(name)] += array.nbytes
    found = explained.bytes_by_part
    for part in (Part.EMBEDDING, Part.ATTENTION, Part.MLP, Part.NORMS, Part.HEAD):
        assert found[part] == expected[part], part
    assert sum(explained.bytes_by_type.values()) == sum(found.values())
    layers = explained.bytes_by_layer
    assert sum(sum(parts.values()) for parts in layers.values()) == sum(found.values())
    assert list(layers)[:3] == ["embedding", "layer 0", "layer 1"]


def test_functions_are_opened_and_equal_layers_are_one_line(explained: Explained) -> None:
    found = dict(blocks(explained.ranks[0]))
    assert found["layers.0-1"]["Attention"] == 1
    assert explained.ranks[0].operators["Attention"] == 2
    assert not any("::" in name for name in explained.ranks[0].operators)


def test_the_page_shows_whatever_the_manifest_has(explained: Explained) -> None:
    plan = PlanReport(
        profiles=(
            PlanProfile(
                name="decode",
                shapes={"input_ids": ((1, 1), (8, 1), (32, 1))}
                | {f"key_pool.{layer}": ((1, 16), (2, 16), (4, 16)) for layer in range(3)},
            ),
        ),
        blocks=tuple(
            BlockFusion(block=f"layers.{layer}", operators=40, layers=12, kernels=(8, 6))
            for layer in range(3)
        ),
        kernels=(
            BlockKernels(
                blocks=("layers.0", "layers.1", "layers.2"),
                profile="decode",
                launches=(
                    KernelLaunch(kind="function", name="fused_silu", nodes=("silu", "gated")),
                ),
            ),
        ),
    )
    score = Score(
        batch=4, capacity=64, tokens=100, perplexity=23.5, reference_perplexity=23.2,
        top1_agreement=0.98, kl_divergence=0.001,
    )  # fmt: skip
    matrix = QuantizedMatrix(
        name="model.layers.1.mlp.up_proj.weight", block=32, bytes_before=100, bytes_after=20,
        relative_error=0.0625, input_range=13.5,
    )  # fmt: skip
    manifest = explained.manifest.model_copy(
        update={
            "ranks": (explained.manifest.ranks[0].model_copy(update={"plan": plan}),),
            "proof": ProofReport(
                prompts=3, prompts_sha256="0", reference="<the network>", scores=(score,)
            ),
            "quantization": QuantizationReport(
                prompts=1, tokens=9, matrices=(matrix,), kept=("lm_head.weight",)
            ),
        }
    )
    text = page(Explained(manifest, explained.ranks))
    told = ("1×1 … 8×1 … 32×1", "key_pool.0-2", "8 / 6", "20% / 15%", "23.500", "6.25%", "13.5")
    told += ("mlp.up_proj", "fused_silu", "silu, gated", "layers.0-2: 1 kernels")
    assert [item for item in told if item not in text] == []
    # What stands in a manifest is text, never markup.
    assert "&lt;the network&gt;" in text
    assert len(re.findall("<svg", text)) == len(re.findall("</svg>", text)) == 5


def test_a_plan_tells_what_it_was_made_of(explained: Explained) -> None:
    plan = PlanReport(
        profiles=(),
        blocks=(),
        stored=(
            StoredBytes(layer=1, part="mlp", type="int4", bytes=600),
            StoredBytes(layer=1, part="attention", type="float16", bytes=300),
            StoredBytes(layer=None, part="head", type="float16", bytes=100),
        ),
    )
    rank = explained.manifest.ranks[0].model_copy(update={"graph": "model.plan", "plan": plan})
    made = Explained(explained.manifest.model_copy(update={"ranks": (rank, rank)}), ())
    assert made.bytes_by_part == {Part.MLP: 1200, Part.ATTENTION: 600, Part.HEAD: 200}
    assert made.bytes_by_type == {"int4": 1200, "float16": 800}
    assert made.bytes_by_layer["layer 1"] == {Part.MLP: 1200, Part.ATTENTION: 600}
    assert "Bytes by tensor class" in page(made)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.layers.3.mlp.down_proj.weight", "layers.3.mlp.down_proj"),
        (
            "model.layers.0.self_attn.q_proj.weight+model.layers.0.self_attn.k_proj.weight",
            "layers.0.self_attn.q_proj+k_proj",
        ),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_joined_matrices_are_told_by_what_differs(name: str, told: str) -> None:
    assert short(name) == told
