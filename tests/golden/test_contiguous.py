"""The form of the graph that reads contexts, against transformers; and which networks have one."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden.conftest import EngineOf
from tests.golden.reference import ReferenceEngine

DATA = Path(__file__).parent / "data"
MODELS = ["llama3", "llama-tied", "qwen3", "mixtral", "phi3-outgrowing", "llama-longrope"]
CLOSE = 5e-5
PAGE = 7


def _expected(model: str) -> dict[str, np.ndarray]:
    with np.load(DATA / model / "expected.npz") as data:
        return dict(data)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("chunk", [1, 5, 40])
def test_logits_agree(engine_of: EngineOf, model: str, chunk: int) -> None:
    engine = ReferenceEngine(engine_of(DATA / model, PAGE).path, contiguous=True)
    expected = _expected(model)
    for prompt, logits in zip(expected["prompt"].tolist(), expected["logits"], strict=True):
        batch = engine.batch(1)
        parts = [prompt[at : at + chunk] for at in range(0, len(prompt), chunk)]
        pieces = [batch.feed([part], len(prompt))[0] for part in parts]
        assert np.abs(np.concatenate(pieces) - logits).max() <= CLOSE


@pytest.mark.parametrize("model", MODELS)
def test_greedy_tokens_agree_in_company(engine_of: EngineOf, model: str) -> None:
    engine = ReferenceEngine(engine_of(DATA / model, PAGE).path, contiguous=True)
    expected = _expected(model)
    tokens = engine.batch(2).greedy(expected["prompt"].tolist(), 24)
    assert tokens == expected["greedy"].tolist()


@pytest.mark.parametrize("model", ["gemma2", "gpt-oss", "mistral-window"])
def test_attention_of_another_form_stays_paged(engine_of: EngineOf, model: str) -> None:
    assert "contiguous" not in engine_of(DATA / model, PAGE).manifest["ranks"][0]
