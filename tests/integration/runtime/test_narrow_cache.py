"""Engines with one byte a number in their KV cache: the same tokens however they are served."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.engine_directory import EngineDirectory, open_engine
from pitcrew_runtime.warmup import generate
from tests.integration.runtime.conftest import CHECKPOINTS, Engines, Serve
from tests.integration.runtime.servers import token_ids

SAMPLE = CHECKPOINTS["tiny-kjv"]
BEGIN, NEW = 1, 12
BYTES_PER_TOKEN = 2 * 6 * 2 * 32
DOCUMENTS = (SAMPLE / "heldout-text.txt").read_text().split("\n\f\n")
STORED = {"int8": "int8", "fp8": "float8_e4m3fn"}


@pytest.fixture(scope="module", params=["int8", "fp8"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = (json.dumps({"text": text[:400]}) for text in DOCUMENTS[:10])
    prompts.write_text("\n".join(lines))
    sizes = ("--max-batch-size", "8", "--max-sequence-length", "128")
    return engines("tiny-kjv", "--kv-cache", kind, "--calibration", str(prompts), *sizes)


@pytest.fixture(scope="module")
def directory(engine: Path) -> EngineDirectory:
    return open_engine(engine, world_size=1)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    texts = [tokenizer.encode(text[:300], add_special_tokens=False).ids for text in DOCUMENTS]
    return [[BEGIN, *ids[: 15 + 5 * index]] for index, ids in enumerate(texts[-6:])]


def _served(
    directory: EngineDirectory, tuning: Tuning, prompts: list[list[int]]
) -> list[list[int]]:
    return generate(assemble(directory, tuning), prompts, NEW, time.monotonic)


@pytest.fixture(scope="module")
def alone(directory: EngineDirectory, prompts: list[list[int]]) -> list[list[int]]:
    return _served(directory, Tuning(max_batch_size=1), prompts)


@settings(max_examples=8, deadline=None)
@given(
    order=st.permutations(range(6)),
    batch=st.integers(1, 8),
    # From no token of a second prompt beside one that decodes, to all prompts at once.
    step_tokens=st.integers(8, 300),
    pages=st.sampled_from([6, 9, 64]),
)
def test_tokens_are_those_of_a_request_that_is_alone(
    directory: EngineDirectory,
    prompts: list[list[int]],
    alone: list[list[int]],
    order: list[int],
    batch: int,
    step_tokens: int,
    pages: int,
) -> None:
    """Chunked, batched and, where pages are few, preempted and computed again."""
    tuning = Tuning(
        max_batch_size=batch,
        max_step_tokens=max(step_tokens, batch),
        kv_memory=pages * 16 * BYTES_PER_TOKEN,
    )
    found = _served(directory, tuning, [prompts[index] for index in order])
    assert found == [alone[index] for index in order]


def test_a_server_tells_what_its_cache_holds(
    engine: Path, kind: str, serve: Serve, prompts: list[list[int]], alone: list[list[int]]
) -> None:
    with serve(engine, "--kv-memory", str(32 * 16 * BYTES_PER_TOKEN)) as server:
        assert server.get("/version").json()["kvDtype"] == STORED[kind]
        assert f'kv_dtype="{STORED[kind]}"' in server.get("/metrics").text
        # A quarter of what float32 takes: four times the pages in the same memory.
        assert server.metric("pitcrew_kv_pages") == 32
        with server.client as client:
            answer = client.completions.create(
                model="model",
                prompt=prompts,
                max_tokens=NEW,
                temperature=0,
                extra_body={"ignore_eos": True, "return_token_ids": True},
            )
        assert token_ids(answer) == alone
