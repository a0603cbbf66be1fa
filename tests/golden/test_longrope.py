"""LongRoPE: texts that are short, that are long, and that outgrow short ones, against transformers.

The runtime serves them, on its own form of the graph and in one batch; the builder answers tasks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pitcrew_builder.manifest import Manifest
from pitcrew_builder.network import open_network
from pitcrew_builder.proof.generate import Limits as Length
from pitcrew_builder.proof.generate import generate as answer
from pitcrew_builder.proof.prover import paged
from pitcrew_builder.spec import Parallelism
from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.drafting import Method, Speculation
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.warmup import generate
from tests.golden.conftest import EngineOf

DATA = Path(__file__).parent / "data"
OUTGROWING = {"phi3-outgrowing": 48, "phi3-outgrowing-at-once": 40, "gemma3-longrope": 50}
"""Tokens of the longest short text; prompts have 40, and 24 follow them."""
MODELS = {**OUTGROWING, "llama-longrope": 52, "phi3-long": 32, "phi3-short": 128}
PAGE = 7
COUNT = 24
CLOSE = 5e-5
SPLITS = {"pp2": Parallelism(pipeline=2), "tp2-pp2": Parallelism(tensor=2, pipeline=2)}
"""Every stage looks angles up in a table of its own."""


def _expected(model: str) -> tuple[list[list[int]], list[list[int]]]:
    with np.load(DATA / model / "expected.npz") as data:
        return data["prompt"].tolist(), data["greedy"].tolist()


@contextmanager
def _serving(path: Path, tuning: Tuning) -> Iterator[Engine]:
    ranks = Manifest.model_validate_json((path / "manifest.json").read_text()).world_size
    engine = assemble(open_engine(path, ranks), tuning)
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.parametrize("model", MODELS)
def test_the_manifest_tells_how_far_short_texts_go(engine_of: EngineOf, model: str) -> None:
    manifest = engine_of(DATA / model, PAGE).manifest
    longest = manifest["identity"]["shapes"]["maxSequenceLength"]
    short = {"upTo": MODELS[model], "firstPosition": longest}
    assert manifest["model"]["shortTexts"] == short
    only = engine_of(DATA / "phi3-only-short", PAGE).manifest["model"]
    assert "shortTexts" not in only, "an engine that takes no longer text has one set of angles"


@pytest.mark.parametrize("guesses", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_served_tokens_are_those_of_transformers(
    engine_of: EngineOf, model: str, guesses: bool
) -> None:
    prompts, greedy = _expected(model)
    speculation = Speculation(Method.NGRAM, tokens=3) if guesses else None
    tuning = Tuning(max_batch_size=3, max_step_tokens=16, threads=1, speculation=speculation)
    with _serving(engine_of(DATA / model, PAGE).path, tuning) as engine:
        for turn in range(2):
            found = generate(engine, [prompts[0], prompts[1], prompts[0]], COUNT, lambda: 0.0)
            assert found == [greedy[0], greedy[1], greedy[0]], f"turn {turn}"
        gauges = engine.gauges()
        assert gauges.counts.outgrown == (6 if 40 <= MODELS[model] < 40 + COUNT - 1 else 0)
        assert gauges.counts.reused_tokens > 0
        assert gauges.pages_used == 0


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("model", [*OUTGROWING, "phi3-long"])
def test_stages_compute_both_kinds_of_texts(engine_of: EngineOf, model: str, split: str) -> None:
    """Logits of the prompt, and tokens of an answer beyond short texts, by a driver of its own."""
    engine = engine_of(DATA / model, PAGE, SPLITS[split])
    with np.load(DATA / model / "expected.npz") as data:
        prompts, greedy, expected = data["prompt"].tolist(), data["greedy"].tolist(), data["logits"]
    batch, whole = engine.batch(2), len(prompts[0])
    parts = [
        np.stack(batch.feed([row[start : start + 16] for row in prompts], whole))
        for start in range(0, whole, 16)
    ]
    assert np.abs(np.concatenate(parts, axis=1) - expected).max() <= CLOSE
    assert engine.batch(2, seed=1).greedy(prompts, COUNT) == greedy


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("model", ["phi3-outgrowing", "gemma3-longrope"])
def test_served_tokens_of_stages_are_those_of_transformers(
    engine_of: EngineOf, model: str, split: str
) -> None:
    prompts, greedy = _expected(model)
    tuning = Tuning(max_batch_size=3, max_step_tokens=16, threads=1)
    with _serving(engine_of(DATA / model, PAGE, SPLITS[split]).path, tuning) as engine:
        texts = [prompts[0], prompts[1] + greedy[1][:20], prompts[1]]
        found = generate(engine, texts, 4, lambda: 0.0)
        assert found == [greedy[0][:4], greedy[1][20:24], greedy[1][:4]]
        assert generate(engine, prompts, COUNT, lambda: 0.0) == greedy
        assert engine.gauges().counts.outgrown == 2


@pytest.mark.parametrize("model", OUTGROWING)
def test_company_of_the_other_kind_changes_no_token(engine_of: EngineOf, model: str) -> None:
    prompts, greedy = _expected(model)
    tuning = Tuning(max_batch_size=4, max_step_tokens=64, threads=1)
    with _serving(engine_of(DATA / model, PAGE).path, tuning) as engine:
        texts = [prompts[0], prompts[0] + greedy[0][:12], prompts[1] + greedy[1][:20], prompts[1]]
        found = generate(engine, texts, 4, lambda: 0.0)
    assert found == [greedy[0][:4], greedy[0][12:16], greedy[1][20:24], greedy[1][:4]]


@pytest.mark.parametrize("model", OUTGROWING)
def test_answers_to_tasks_are_those_of_transformers(engine_of: EngineOf, model: str) -> None:
    path = engine_of(DATA / model, PAGE).path
    manifest = Manifest.model_validate_json((path / "manifest.json").read_text())
    network = open_network([(path, manifest.ranks[0])])
    prompts, greedy = _expected(model)
    # A text that goes on from the middle of another: rows outgrow short texts at unlike times.
    prompts.append(prompts[0] + greedy[0][:5])
    wanted = [*greedy, greedy[0][5:]]
    limits = Length(batch=3, tokens=19, vocabulary=manifest.model.vocab_size)
    start = paged(network, manifest.model, PAGE)
    found = answer(start, prompts, limits, lambda _: False, lambda _: None)
    assert found == [tokens[:19] for tokens in wanted]
