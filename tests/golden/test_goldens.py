"""Engines against logits and greedy tokens of transformers on tiny random checkpoints."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden.cases import CASES
from tests.golden.conftest import EngineOf
from tests.golden.reference import ReferenceEngine

DATA = Path(__file__).parent / "data"
MODELS = ["llama3", "llama-tied", "qwen2", "qwen3", "mixtral", *CASES]
PAGES = [7, 16]
# The bar is 1e-3; single precision leaves about 5e-6, and a subtle mistake leaves more than this.
CLOSE = 5e-5

pytestmark = [
    pytest.mark.parametrize("model", MODELS),
    pytest.mark.parametrize("page", PAGES),
]


def _expected(model: str) -> dict[str, np.ndarray]:
    with np.load(DATA / model / "expected.npz") as data:
        return dict(data)


def test_prefill_logits_agree(engine_of: EngineOf, model: str, page: int) -> None:
    expected = _expected(model)
    batch = engine_of(DATA / model, page).batch(2)
    logits = np.stack(batch.feed(expected["prompt"].tolist()))
    assert np.abs(logits - expected["logits"]).max() <= CLOSE


@pytest.mark.parametrize("chunk", [1, 5, 16, 33])
def test_chunked_prefill_agrees(engine_of: EngineOf, model: str, page: int, chunk: int) -> None:
    expected = _expected(model)
    batch = engine_of(DATA / model, page).batch(2)
    prompts = expected["prompt"].tolist()
    pieces = [
        np.stack(batch.feed([row[start : start + chunk] for row in prompts], len(prompts[0])))
        for start in range(0, len(prompts[0]), chunk)
    ]
    assert np.abs(np.concatenate(pieces, axis=1) - expected["logits"]).max() <= CLOSE


def test_greedy_alone_agrees(engine_of: EngineOf, model: str, page: int) -> None:
    expected = _expected(model)
    engine = engine_of(DATA / model, page)
    for prompt, greedy in zip(
        expected["prompt"].tolist(), expected["greedy"].tolist(), strict=True
    ):
        assert engine.batch(1).greedy([prompt], len(greedy)) == [greedy]


def test_greedy_batched_agrees(engine_of: EngineOf, model: str, page: int) -> None:
    expected = _expected(model)
    batch = engine_of(DATA / model, page).batch(2, seed=1)
    assert batch.greedy(expected["prompt"].tolist(), 24) == expected["greedy"].tolist()


def test_greedy_in_a_ragged_batch_agrees(engine_of: EngineOf, model: str, page: int) -> None:
    """Rows of unlike length, one of them a prefix: padding must not leak into a neighbour."""
    expected = _expected(model)
    first, second = expected["prompt"].tolist()
    prefix = first[:11]
    engine = engine_of(DATA / model, page)
    batch = engine.batch(3, seed=2)
    logits = batch.feed([first, prefix, second])
    assert np.abs(logits[0] - expected["logits"][0]).max() <= CLOSE
    if not _is_another_kind(engine, prefix, first):
        assert np.abs(logits[1] - expected["logits"][0, :11]).max() <= CLOSE
    assert np.abs(logits[2] - expected["logits"][1]).max() <= CLOSE
    tokens = [[int(scores[-1].argmax())] for scores in logits]
    for _ in range(23):
        logits = batch.feed([row[-1:] for row in tokens])
        for row, scores in zip(tokens, logits, strict=True):
            row.append(int(scores[-1].argmax()))
    assert [tokens[0], tokens[2]] == expected["greedy"].tolist()


def _is_another_kind(engine: ReferenceEngine, prefix: list[int], text: list[int]) -> bool:
    """Whether a text's beginning would be rotated otherwise, were it all."""
    short = engine.manifest["model"].get("shortTexts")
    return short is not None and len(prefix) <= short["upTo"] < len(text)
