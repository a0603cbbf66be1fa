"""Guessing and sharing pages on a real server: the same answers, and metrics that tell of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime.conftest import Engines, Serve
from tests.integration.runtime.servers import DEADLINE, Server, command, token_ids

PROMPT = "In the beginning God created the heaven and the earth. And the earth was"
GREEDY: dict[str, Any] = {"temperature": 0}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 11, "n": 3}
SHAPED: dict[str, Any] = SAMPLED | {
    "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
    "logit_bias": {"300": 2.0},
    "extra_body": {"repetition_penalty": 1.1, "min_tokens": 30, "guided_regex": "[a-z ,]{20,300}"},
}


def answers(server: Server) -> list[list[list[int]]]:
    """Greedy, sampled, and sampled from logits that what was said before has changed."""
    with server.client as client:
        return [
            token_ids(
                client.completions.create(
                    model="model",
                    prompt=PROMPT,
                    max_tokens=60,
                    **(
                        how
                        | {"extra_body": {"return_token_ids": True, **how.get("extra_body", {})}}
                    ),
                )
            )
            for how in (GREEDY, SAMPLED, SHAPED)
        ]


@pytest.fixture(scope="module")
def plain(kjv: Server) -> list[list[list[int]]]:
    return answers(kjv)


def test_ngrams_change_no_answer(
    engines: Engines, serve: Serve, plain: list[list[list[int]]]
) -> None:
    with serve(engines("tiny-kjv"), "--speculative", "ngram") as server:
        assert answers(server) == plain
        assert server.metric("pitcrew_speculative_accepted_tokens_total") > 0


def test_a_draft_engine_changes_no_answer(
    engines: Engines, serve: Serve, plain: list[list[list[int]]]
) -> None:
    engine = engines("tiny-kjv")
    draft = ("--speculative", "draft", "--draft-engine", str(engine), "--speculative-tokens", "3")
    with serve(engine, *draft) as server:
        assert answers(server) == plain
        proposed = server.metric("pitcrew_speculative_proposed_tokens_total")
        accepted = server.metric("pitcrew_speculative_accepted_tokens_total")
        assert accepted > 0.9 * proposed > 0, "an engine agrees with itself"


def test_what_begins_alike_is_computed_once(
    engines: Engines, serve: Serve, plain: list[list[list[int]]]
) -> None:
    with serve(engines("tiny-kjv")) as server:
        assert answers(server) == plain
        once = server.metric("pitcrew_prefix_cache_hit_tokens_total")
        assert once > 0
        assert answers(server) == plain
        assert server.metric("pitcrew_prefix_cache_hit_tokens_total") > 2 * once
        assert server.empty(), "cached pages are nobody's"
        page = subprocess.run(
            [sys.executable, "-m", "pitcrew_runtime.top.cli", server.url, "--once"],
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE,
        ).stdout
        assert "tiny-kjv · cpu-ort" in page
        assert "refused    none" in page
    with serve(engines("tiny-kjv"), "--no-prefix-cache") as server:
        assert answers(server) == plain
        assert server.metric("pitcrew_kv_pages_cached") == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--speculative", "draft"), "--draft-engine: give it with --speculative draft"),
        (("--draft-engine", "{other}"), "--draft-engine: add --speculative draft"),
        (
            ("--speculative", "draft", "--draft-engine", "{other}"),
            "its vocabulary has 512 tokens, the served engine's 2048",
        ),
        (
            ("--speculative", "draft", "--draft-engine", "{paged}"),
            "its KV pages have 7 tokens, the served engine's 16; build it with shapes.kvPageSize",
        ),
    ],
)
def test_a_draft_engine_that_cannot_follow_is_refused(
    options: tuple[str, ...], says: str, engines: Engines
) -> None:
    def place(text: str) -> str:
        if text == "{other}":
            return str(engines("llama3"))
        return str(engines("tiny-kjv", "--kv-page-size", "7")) if text == "{paged}" else text

    engine: Path = engines("tiny-kjv")
    run = subprocess.run(
        command(engine, *map(place, options)),
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert run.returncode == 2
    assert "InvalidOption: " in run.stderr
    assert says in run.stderr
