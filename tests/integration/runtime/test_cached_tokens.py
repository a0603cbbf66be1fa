"""How much of a prompt was found in the prefix cache, told to whoever sent it."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest

from tests.integration.runtime.conftest import Engines
from tests.integration.runtime.servers import Server, serving

KEYS = ("mine", "another's")
PROMPTS = count(1)
PAGE = 16


@pytest.fixture(scope="module")
def server(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    engine, folder = engines("tiny-kjv"), tmp_path_factory.mktemp("cached")
    with serving(engine, folder, PITCREW_API_KEYS="\n".join(KEYS)) as found:
        yield found


def prompt() -> list[int]:
    """Three pages and two tokens that nobody has asked before."""
    return [next(PROMPTS), *range(3 * PAGE + 1)]


def ask(server: Server, path: str, body: dict[str, Any], key: str = KEYS[0]) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(
        f"{server.url}{path}",
        json=body if path.startswith("/v2") else {"model": "model", **body},
        headers=headers,
    )
    assert answer.status_code == 200, answer.text
    return answer


def cached(server: Server, key: str = KEYS[0], **body: Any) -> int:  # noqa: ANN401
    return told(ask(server, "/v1/completions", {"max_tokens": 2, **body}, key).json())


def told(document: dict[str, Any]) -> int:
    tokens: int = document["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


def last_event(answer: httpx.Response) -> dict[str, Any]:
    *_, usage, done = answer.text.split("\n\n")[:-1]
    assert done == "data: [DONE]"
    found: dict[str, Any] = json.loads(usage.removeprefix("data: "))
    return found


STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def test_full_pages_are_found_and_told(server: Server) -> None:
    asked = prompt()
    before = server.metric("pitcrew_prefix_cache_hit_tokens_total")
    assert cached(server, prompt=asked) == 0
    assert cached(server, prompt=asked) == 3 * PAGE
    assert cached(server, prompt=asked[: 2 * PAGE + 5]) == 2 * PAGE
    whole = {"prompt": asked, "max_tokens": 2, **STREAM}
    assert told(last_event(ask(server, "/v1/completions", whole))) == 3 * PAGE
    found = server.metric("pitcrew_prefix_cache_hit_tokens_total") - before
    assert found == (3 + 2 + 3) * PAGE, "what is told is what was not computed"


@pytest.mark.parametrize("shape", [{"n": 3}, {"best_of": 3}, {"n": 2, **STREAM}], ids=str)
def test_a_prompt_of_several_choices_is_counted_once(server: Server, shape: dict[str, Any]) -> None:
    asked = {"prompt": prompt(), "max_tokens": 2, **shape}
    for expected in (0, 3 * PAGE):
        answer = ask(server, "/v1/completions", asked)
        usage = last_event(answer) if "stream" in shape else answer.json()
        assert told(usage) == expected
        assert usage["usage"]["prompt_tokens"] == 3 * PAGE + 2


def test_several_prompts_are_added(server: Server) -> None:
    known, new = prompt(), prompt()
    assert cached(server, prompt=known) == 0
    assert cached(server, prompt=[new, known]) == 3 * PAGE


def test_chats(server: Server) -> None:
    turn = {
        "role": "user",
        "content": "In the beginning God created the heaven and the earth. " * 3,
    }
    body: dict[str, Any] = {"messages": [turn], "max_tokens": 2}
    first, second = (ask(server, "/v1/chat/completions", body).json() for _ in range(2))
    assert told(first) == 0
    tokens = second["usage"]["prompt_tokens"]
    assert told(second) == (tokens - 1) // PAGE * PAGE > 0
    streamed = last_event(ask(server, "/v1/chat/completions", body | STREAM))
    assert told(streamed) == told(second)


def test_nobody_is_told_of_others(server: Server) -> None:
    asked = prompt()
    assert cached(server, prompt=asked) == 0
    assert cached(server, prompt=asked) == 3 * PAGE
    assert cached(server, KEYS[1], prompt=asked) == 0, "another key"
    assert cached(server, prompt=asked, cache_salt="s") == 0, "another salt"
    assert cached(server, KEYS[1], prompt=asked, cache_salt="s") == 0
    assert cached(server, prompt=asked, cache_salt="s") == 3 * PAGE


def test_tritons_clients(server: Server) -> None:
    text = "And it came to pass in those days, that there went out a decree. " * 3
    asked = {
        "text_input": text,
        "return_num_cached_tokens": True,
        "return_num_input_tokens": True,
        "parameters": {"max_tokens": 2},
    }
    first, second = (ask(server, "/v2/models/model/generate", asked).json() for _ in range(2))
    assert first["num_cached_tokens"] == 0
    assert second["num_cached_tokens"] == (second["num_input_tokens"] - 1) // PAGE * PAGE > 0
