"""Engines split over ranks compute what the unsplit ones do: the logits of transformers."""

from pathlib import Path

import numpy as np
import pytest

from pitcrew_builder.spec import Parallelism
from tests.golden.conftest import EngineOf

DATA = Path(__file__).parent / "data"
PAGE = 7
# The bar is 1e-4; the order of a sum leaves about 6e-6.
CLOSE = 5e-5

TP2_PP2 = Parallelism(tensor=2, pipeline=2)

MODELS = ["llama3", "llama-tied", "qwen2", "qwen3"]
SPLITS = {
    "tp2": Parallelism(tensor=2),
    # More ranks than KV heads: neighbours repeat one.
    "tp4": Parallelism(tensor=4),
    "pp2": Parallelism(pipeline=2),
    "tp2-pp2": TP2_PP2,
    # A stage that neither reads tokens nor computes logits.
    "tp4-pp3": Parallelism(tensor=4, pipeline=3),
    "tp4-pp2": Parallelism(tensor=4, pipeline=2),
    "ep2": Parallelism(expert=2),
    "tp2-ep2": Parallelism(tensor=2, expert=2),
    "tp2-ep3": Parallelism(tensor=2, expert=3),
    "pp2-ep4": Parallelism(pipeline=2, expert=4),
}
FAMILIES = ["gemma2", "gemma3", "granite-biases", "mistral-window", "olmo2-grouped"]
FAMILIES += ["phi3-partial", "starcoder2", "llama-one-kv-head"]
MIXTURES = ["gpt-oss", "qwen3-moe"]
DENSE = ["tp2", "tp4", "pp2", "tp2-pp2"]
MIXTURE = ["tp2", "ep2", "tp2-ep2", "pp2-ep4"]
CASES = [
    *[(model, tag) for model in MODELS for tag in DENSE],
    ("llama3", "tp4-pp3"),
    *[("mixtral", tag) for tag in MIXTURE],
    # What else a rank may hold a part of: normed heads, fused matrices, sinks, biases, packed experts.
    *[(model, "tp4-pp2") for model in FAMILIES],
    *[(model, "tp2-ep2") for model in MIXTURES],
    ("gpt-oss-mxfp4", "tp2-ep3"),
]


@pytest.mark.parametrize(("model", "tag"), CASES)
def test_logits_of_all_ranks_together_agree(engine_of: EngineOf, model: str, tag: str) -> None:
    """In chunks that cut pages, so that every rank reads back what it cached."""
    with np.load(DATA / model / "expected.npz") as data:
        prompts, expected = data["prompt"].tolist(), data["logits"]
    engine = engine_of(DATA / model, PAGE, SPLITS[tag])
    batch = engine.batch(2)
    pieces = [
        np.stack(batch.feed([row[start : start + 16] for row in prompts]))
        for start in range(0, len(prompts[0]), 16)
    ]
    assert np.abs(np.concatenate(pieces, axis=1) - expected).max() <= CLOSE
    assert f"-{tag}-" in engine.manifest["tag"]
    assert len(engine.manifest["ranks"]) == SPLITS[tag].world_size


@pytest.mark.parametrize("model", MODELS)
def test_greedy_tokens_of_all_ranks_together_agree(engine_of: EngineOf, model: str) -> None:
    with np.load(DATA / model / "expected.npz") as data:
        prompts, greedy = data["prompt"].tolist(), data["greedy"].tolist()
    batch = engine_of(DATA / model, PAGE, TP2_PP2).batch(2, seed=1)
    assert batch.greedy(prompts, len(greedy[0])) == greedy


@pytest.mark.parametrize("model", MODELS)
def test_a_split_engine_has_the_canary_of_the_whole_one(engine_of: EngineOf, model: str) -> None:
    """Validated together: a rank alone could not even be run."""
    whole = engine_of(DATA / model, PAGE).manifest["canary"]
    split = engine_of(DATA / model, PAGE, TP2_PP2).manifest["canary"]
    shared = min(len(whole["continuation"]), len(split["continuation"]))
    assert split["prompt"] == whole["prompt"]
    assert split["continuation"][:shared] == whole["continuation"][:shared]
    assert shared >= 4
