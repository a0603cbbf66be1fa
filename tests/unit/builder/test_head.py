"""The LM head in eight bits: whose it is, what it costs, and that company changes no token."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from pitcrew_builder.explain.summary import explain
from pitcrew_builder.graph.parts import Part
from pitcrew_builder.network import open_served
from pitcrew_builder.proof.sequences import InContexts
from pitcrew_builder.quantize.recipe import recipe_of
from pitcrew_builder.spec import BuildSpec, WeightFormat
from pitcrew_builder.store import Store
from tests.unit.builder.engines import Engine

SAMPLE = Path(__file__).parents[3] / "samples" / "models" / "tiny-kjv"
EMBEDDING = "model.embed_tokens.weight"
PROMPT, STEPS = 24, 12


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "heldout.jsonl"
    file.write_text('{"text": "In the beginning God created the heaven and the earth."}\n')
    return file


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Engine:
    return _engine(tmp_path_factory.mktemp("narrow"), prompts)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Engine:
    return _engine(tmp_path_factory.mktemp("wide"), prompts, head="wide")


def _engine(root: Path, prompts: Path, **more: str) -> Engine:
    return Engine(
        root,
        SAMPLE,
        quantization={"weights": "int4", **more},
        proof={"prompts": {"path": str(prompts)}, "maxPerplexityIncreasePercent": "1000"},
        shapes={"maxBatchSize": 4, "maxSequenceLength": 64},
    )


def _spec(quantization: dict[str, str], **more: object) -> BuildSpec:
    source = {"kind": "local", "path": "/models/any", "name": "any"}
    calibrated = {**quantization, "calibration": {"path": "/models/prompts.jsonl"}}
    return BuildSpec.model_validate({"source": source, "quantization": calibrated, **more})


def test_a_tied_embedding_is_looked_up_wide_and_multiplied_narrow(
    narrow: Engine, wide: Engine
) -> None:
    report: Any = narrow.manifest.quantization
    (head,) = (matrix for matrix in report.matrices if matrix.name == EMBEDDING)
    assert head.relative_error < 0.01
    assert EMBEDDING in report.kept
    other: Any = wide.manifest.quantization
    assert EMBEDDING not in {matrix.name for matrix in other.matrices}
    assert narrow.manifest.engine_id != wide.manifest.engine_id
    # Beside the table of halves: a byte of each number, and a scale of each row.
    vocabulary, width = narrow.manifest.model.vocab_size, narrow.manifest.model.hidden_size
    more = narrow.manifest.size_bytes - wide.manifest.size_bytes
    assert more == pytest.approx(vocabulary * (width + 4), rel=0.02)


def test_what_multiplies_counts_as_head_and_what_is_looked_up_as_embedding(
    narrow: Engine, wide: Engine
) -> None:
    (head,) = (m for m in narrow.manifest.quantization.matrices if m.name == EMBEDDING)
    parts = [
        explain(Store(each.path.parent), each.path.name).bytes_by_part for each in (narrow, wide)
    ]
    assert parts[0][Part.HEAD] == head.bytes_after
    assert parts[0][Part.EMBEDDING] == parts[1][Part.EMBEDDING]


@pytest.mark.parametrize("form", ["graph", "contiguous"])
def test_the_logits_come_of_eight_bits_that_onnx_runtime_keeps(narrow: Engine, form: str) -> None:
    path = narrow.path / getattr(narrow.manifest.ranks[0], form)
    drawn = onnx.load(path, load_external_data=False).graph
    types = {item.name: item.data_type for item in drawn.initializer}
    codes = [
        node.input[0]
        for node in drawn.node
        if node.op_type == "DequantizeLinear" and types[node.input[0]] == onnx.TensorProto.INT8
    ]
    assert codes == [f"{EMBEDDING}/codes"]


def test_it_moves_the_logits_by_less_than_the_layers_do(narrow: Engine, wide: Engine) -> None:
    plain = Engine(narrow.path.parents[4] / "plain", SAMPLE, shapes={"maxSequenceLength": 64})
    found, layers, reference = (each.logits()[0][0] for each in (narrow, wide, plain))
    assert np.abs(found - layers).max() < 0.3 * np.abs(layers - reference).max()


def test_company_changes_no_token(narrow: Engine) -> None:
    texts = np.random.default_rng(0).integers(3, 2000, (4, PROMPT))
    together = _greedy(narrow, texts)
    alone = [_greedy(narrow, text[None])[0] for text in texts]
    np.testing.assert_array_equal(together, alone)


def _greedy(engine: Engine, texts: np.ndarray) -> np.ndarray:
    served = open_served([(engine.path, engine.manifest.ranks[0])], packed=True)
    assert served is not None
    count, last = len(texts), np.array([0])
    ones = np.ones(count, np.int64)
    rows = InContexts(served.run, engine.manifest.model, (PROMPT + STEPS) * ones, PROMPT + STEPS)
    end = np.array([PROMPT - 1])
    tokens = [rows.take(texts, 0 * ones, PROMPT * ones, end)[:, 0].argmax(axis=-1)]
    for step in range(STEPS - 1):
        starts = (PROMPT + step) * ones
        tokens.append(rows.take(tokens[-1][:, None], starts, ones, last)[:, 0].argmax(axis=-1))
    return np.stack(tokens, axis=1)


PLANS = {"target": "tensorrt-rtx", "precision": "fp16", "tensorrt": {"computeCapability": "sm89"}}


@pytest.mark.parametrize(
    ("quantization", "more", "head"),
    [
        ({"weights": "int4"}, {}, WeightFormat.INT8),
        ({"weights": "int8"}, {}, WeightFormat.INT8),
        ({"weights": "int8", "head": "wide"}, {}, None),
        ({"weights": "int4"}, {"parallelism": {"tensor": 2}}, WeightFormat.INT8),
        ({"weights": "int4"}, PLANS, None),
    ],
)
def test_engines_of_integers_for_a_cpu_have_it_by_themselves(
    quantization: dict[str, str], more: dict[str, object], head: WeightFormat | None
) -> None:
    recipe = recipe_of(_spec(quantization, **more), None)
    assert recipe is not None
    assert recipe.head is head


@pytest.mark.parametrize(
    ("quantization", "more", "told"),
    [
        ({"weights": "fp8", "head": "int8", "method": "round"}, {}, "set weights to int4 or int8"),
        ({"weights": "int4", "head": "int8"}, PLANS, "target is tensorrt-rtx; leave head out"),
    ],
)
def test_elsewhere_it_is_refused(
    quantization: dict[str, str], more: dict[str, object], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        _spec(quantization, **more)
