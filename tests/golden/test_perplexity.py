"""The real, trained sample model predicts unseen text as well as its authors measured."""

import math
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tests.golden.conftest import EngineOf

SAMPLE = Path(__file__).parents[2] / "samples" / "models" / "tiny-kjv"
REFERENCE = 23.159
BEGIN, END = 1, 0
WINDOW = 256
ROWS = 8


def _token_ids() -> np.ndarray:
    """Every document as begin, tokens, end; one after the other."""
    tokenizer = Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    documents = (SAMPLE / "heldout-text.txt").read_text().split("\n\f\n")
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in documents]
    return np.array([token for ids in encoded for token in (BEGIN, *ids, END)], dtype=np.int64)


def _negative_log_likelihoods(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    highest = logits.max(axis=-1, keepdims=True)
    normalizer = highest[..., 0] + np.log(np.exp(logits - highest).sum(axis=-1))
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    losses: np.ndarray = normalizer - chosen
    return losses


def test_perplexity_of_the_sample_model(engine_of: EngineOf) -> None:
    ids = _token_ids()
    assert len(ids) == 77_230
    windows = (len(ids) - 1) // WINDOW
    inputs = ids[: windows * WINDOW].reshape(windows, WINDOW)
    targets = ids[1 : windows * WINDOW + 1].reshape(windows, WINDOW)
    engine = engine_of(SAMPLE, 16)
    total = 0.0
    for start in range(0, windows, ROWS):
        rows = inputs[start : start + ROWS]
        logits = np.stack(engine.batch(len(rows), capacity=WINDOW).feed(rows.tolist()))
        total += float(_negative_log_likelihoods(logits, targets[start : start + ROWS]).sum())
    perplexity = math.exp(total / (windows * WINDOW))
    assert windows * WINDOW == 77_056
    assert abs(perplexity / REFERENCE - 1) < 1e-3, perplexity
