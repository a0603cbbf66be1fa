"""`pitcrew-serve` of a plan on a GPU, as clients see it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.needs import PLANS, sample_plan
from tests.integration.runtime.servers import Server, serving, token_ids, wait_until

pytestmark = PLANS
PROMPT = "And it came to pass, "


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_plan(tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="module", params=["plain", "ngram", "draft"])
def server(
    request: pytest.FixtureRequest, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Ready: its canary has been repeated. Guesses, if any, are the engine's own or of its text."""
    options = {
        "plain": (),
        "ngram": ("--speculative", "ngram"),
        "draft": ("--speculative", "draft", "--draft-engine", str(engine)),
    }[request.param]
    with serving(engine, tmp_path_factory.mktemp("server"), *options) as server:
        yield server
        assert server.metric("pitcrew_speculative_accepted_tokens_total") > 0 or not options
        assert server.terminate() == 0


def test_a_stream_says_what_an_answer_says(server: Server) -> None:
    asked = {"model": server.name, "prompt": PROMPT, "max_tokens": 80, "temperature": 0}
    whole, pieces = server.whole_and_streamed(asked)
    assert len(pieces) > 10
    assert "".join(pieces) == whole


def test_a_seed_repeats_its_text(server: Server) -> None:
    asked = {"model": server.name, "prompt": PROMPT, "max_tokens": 40, "temperature": 0.9, "n": 3}
    first, second = (
        token_ids(
            server.client.completions.create(**asked, seed=7, extra_body={"return_token_ids": True})
        )
        for _ in range(2)
    )
    assert first == second
    assert len({tuple(each) for each in first}) > 1


def test_log_probabilities_are_told(server: Server) -> None:
    answer = server.client.completions.create(
        model=server.name, prompt=PROMPT, max_tokens=4, logprobs=3, echo=True, temperature=0
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert all(value <= 0 for value in told.token_logprobs[1:])


def test_who_leaves_leaves_no_pages(server: Server) -> None:
    stream = server.client.completions.create(
        model=server.name, prompt=PROMPT, max_tokens=480, temperature=0.8, stream=True
    )
    next(iter(stream))
    stream.close()
    wait_until(server.empty, "pages come back")
    assert server.metric("pitcrew_network_runs_total") > 0
    assert server.liveness() == ""
