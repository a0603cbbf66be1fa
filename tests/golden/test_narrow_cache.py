"""Engines whose KV cache holds one byte a number: near the float engine, and consistent in themselves.

The reference is `NumpyLlama` with the rounding spelled out by hand, in double precision and without
pages: it finds its own ranges on the calibration text and rounds keys and values by them.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from pitcrew_builder.checkpoint.directory import Directory, read_tensors
from pitcrew_builder.families import FAMILIES
from pitcrew_builder.manifest import ModelFacts, ResolvedShapes
from pitcrew_builder.network import Executable
from pitcrew_builder.paged_runner import PagedRunner
from pitcrew_builder.progress import Tracker
from pitcrew_builder.quantize.cache import CODES, narrow_cache, observe_cache
from pitcrew_builder.quantize.observe import Calibration
from pitcrew_builder.spec import CacheFormat, Parallelism
from pitcrew_builder.targets.onnx_files import GRAPH, write_onnx
from pitcrew_builder.targets.target import Network
from tests.golden.conftest import CALIBRATION, SAMPLE, SHORT, EngineOf
from tests.golden.numpy_llama import Doubles, NumpyLlama
from tests.golden.reference import Floats

FORMATS = [CacheFormat.INT8, CacheFormat.FP8]
DATA = Path(__file__).parent / "data"
ERRORS = {CacheFormat.INT8: 0.05, CacheFormat.FP8: 0.2}
"""Of a logit, at most, beside the largest."""
PAGE, LENGTH, BEGIN = 16, 48, 1
Logits: TypeAlias = Floats | Doubles

pytestmark = pytest.mark.parametrize("kind", FORMATS)


def _tokens(text: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    return [BEGIN, *tokenizer.encode(text, add_special_tokens=False).ids]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Three texts that nothing was calibrated on."""
    documents = (SAMPLE / "heldout-text.txt").read_text().split("\n\f\n")
    return [_tokens(text)[:LENGTH] for text in documents[-3:]]


class Rounding:
    """What `NumpyLlama` does to keys and values before it attends to them."""

    def __init__(self) -> None:
        self.reach: dict[str, Doubles] = defaultdict(lambda: np.zeros((2, 32)))

    def observe(self, name: str, x: Doubles) -> Doubles:
        self.reach[name] = np.maximum(self.reach[name], np.abs(x).max(axis=0))
        return x

    def int8(self, name: str, x: Doubles) -> Doubles:
        steps = self._widened(name) / 127
        rounded: Doubles = np.clip(np.rint(x / steps), -127, 127) * steps
        return rounded

    def fp8(self, name: str, x: Doubles) -> Doubles:
        steps = self._widened(name) / 448
        codes = np.clip(x / steps, -448, 448).astype(ml_dtypes.float8_e4m3fn)
        rounded: Doubles = codes.astype(np.float64) * steps
        return rounded

    def _widened(self, name: str) -> Doubles:
        reach = self.reach[name]
        return np.maximum(reach, reach.max(axis=1, keepdims=True) / 256)


@pytest.fixture(scope="module")
def references(prompts: list[list[int]]) -> dict[str, list[Doubles]]:
    """Logits of each prompt by format, and `exact` without rounding."""
    config = json.loads((SAMPLE / "config.json").read_text())
    tensors = load_file(SAMPLE / "model.safetensors")
    rounding = Rounding()
    model = NumpyLlama(config, tensors, rounding.observe)
    for text in CALIBRATION:
        model.logits(_tokens(text)[:SHORT])
    rules = {"exact": lambda name, x: x, "int8": rounding.int8, "fp8": rounding.fp8}
    found: dict[str, list[Doubles]] = {}
    for rule, model.cached in rules.items():
        found[rule] = [model.logits(prompt) for prompt in prompts]
    return found


def _distance(ours: Sequence[Logits], theirs: Sequence[Logits]) -> float:
    """Mean absolute difference of a logit."""
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(ours, theirs, strict=True)]))


def test_it_rounds_as_the_reference_does(
    engine_of: EngineOf,
    kind: CacheFormat,
    prompts: list[list[int]],
    references: dict[str, list[Doubles]],
) -> None:
    """All but the few codes that fall to the other side of a half, single precision being single,
    and what follows from them.
    """
    engine = engine_of(SAMPLE, PAGE, kv_cache=kind)
    found = engine.batch(len(prompts)).feed(prompts)
    cost = _distance(references[kind.value], references["exact"])
    assert _distance(found, references[kind.value]) < cost / 3


@pytest.mark.parametrize(("page", "chunk"), [(PAGE, 1), (PAGE, 16), (7, 5)])
def test_chunks_batches_and_pages_change_nothing(
    engine_of: EngineOf,
    kind: CacheFormat,
    page: int,
    chunk: int,
    prompts: list[list[int]],
    references: dict[str, list[Doubles]],
) -> None:
    engine = engine_of(SAMPLE, page, kv_cache=kind)
    whole = engine.batch(len(prompts)).feed(prompts)
    cost = _distance(whole, references["exact"])
    for row, wanted in zip(prompts, whole, strict=True):
        alone = engine.batch(1, seed=chunk)
        parts = [alone.feed([row[start : start + chunk]])[0] for start in range(0, LENGTH, chunk)]
        assert _distance([np.concatenate(parts)], [wanted]) < 0.1 * cost


def test_greedy_tokens_are_the_same_alone_and_together(
    engine_of: EngineOf, kind: CacheFormat, prompts: list[list[int]]
) -> None:
    engine = engine_of(SAMPLE, PAGE, kv_cache=kind)
    starts = [prompt[: 20 + 9 * index] for index, prompt in enumerate(prompts)]
    together = engine.batch(len(starts)).greedy(starts, 24)
    assert [engine.batch(1, seed=3).greedy([start], 24)[0] for start in starts] == together


def test_ranks_round_their_own_heads_alike(
    engine_of: EngineOf,
    kind: CacheFormat,
    prompts: list[list[int]],
    references: dict[str, list[Doubles]],
) -> None:
    """The order of a sum is another with ranks, so a code may fall otherwise here and there."""
    split = Parallelism(tensor=2, pipeline=2)
    whole = engine_of(SAMPLE, PAGE, kv_cache=kind).batch(len(prompts)).feed(prompts)
    parts = engine_of(SAMPLE, PAGE, split, kind).batch(len(prompts)).feed(prompts)
    assert _distance(parts, whole) < 0.1 * _distance(whole, references["exact"])


@pytest.mark.parametrize("model", ["gemma2", "gpt-oss", "mistral-window", "qwen3"])
def test_every_kind_of_attention_reads_codes(kind: CacheFormat, model: str, tmp_path: Path) -> None:
    """Caps, sinks, windows and normed heads, in chunks that cut pages; near transformers' logits."""
    checkpoint = DATA / model
    raw = json.loads((checkpoint / "config.json").read_text())
    family = FAMILIES[raw["model_type"]]
    config = family.config.model_validate(raw)
    shapes = ResolvedShapes(max_batch_size=1, max_sequence_length=64, kv_page_size=7)
    graph = family.graph(config, shapes)
    with np.load(checkpoint / "expected.npz") as data:
        (prompt, *_), (expected, *_) = data["prompt"].tolist(), data["logits"]
    drawn = Network(graph, read_tensors(Directory.of(checkpoint)))
    facts = ModelFacts(
        architecture=config.model_type,
        parameters=0,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        attention_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
    )
    _written(tmp_path / "wide", drawn)
    calibration = Calibration(graph, tmp_path / "wide" / "rank0", facts, 7, [prompt])
    reaches = observe_cache(calibration, lambda _: None)
    narrow = replace(drawn, graph=narrow_cache(graph, CODES[kind], reaches))
    runner = PagedRunner(_written(tmp_path / "narrow", narrow), facts, 7, len(prompt))
    parts = [runner.extend(prompt[start : start + 9]) for start in range(0, len(prompt), 9)]
    error = np.abs(np.concatenate(parts) - expected).max() / np.abs(expected).max()
    assert 0 < error < ERRORS[kind]


def _written(root: Path, network: Network) -> Executable:
    write_onnx(root, "rank0", network, {"tag": root.name}, Tracker(lambda _: None))
    return Executable(root / "rank0" / GRAPH)
