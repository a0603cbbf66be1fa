"""Each sampling field changes what it says, on a real model."""

from collections import Counter
from typing import Any

import httpx
import openai
import pytest

from tests.integration.runtime.servers import DEADLINE, Server

PROMPT = "And God said, Let there be"


def ask(server: Server, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    body = {"model": "model", "prompt": PROMPT, "max_tokens": 40, "temperature": 0} | fields
    body["return_token_ids"] = True
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=DEADLINE)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any], index: int = 0) -> list[int]:
    found: list[int] = answer["choices"][index]["token_ids"]
    return found


def test_a_bias_bans_and_forces(kjv: Server) -> None:
    plain = ids(ask(kjv))
    banned = ids(ask(kjv, logit_bias={str(plain[0]): -100}))
    assert plain[0] not in banned
    assert set(ids(ask(kjv, logit_bias={"300": 100}))) == {300}


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_penalties_make_repetition_rarer(kjv: Server, field: str) -> None:
    fields = {"max_tokens": 200, "ignore_eos": True}
    plain, penalized = ids(ask(kjv, **fields)), ids(ask(kjv, **fields, **{field: 2.0}))
    assert len(set(penalized)) > len(set(plain))
    assert max(Counter(penalized).values()) < max(Counter(plain).values())


def test_a_large_repetition_penalty_says_nothing_twice(kjv: Server) -> None:
    said = ids(ask(kjv, max_tokens=60, ignore_eos=True, repetition_penalty=10))
    assert len(set(said)) == len(said)


def test_no_end_before_min_tokens(kjv: Server) -> None:
    plain = ids(ask(kjv))
    stop = plain[5]
    early = ask(kjv, stop_token_ids=[stop])
    assert len(ids(early)) == plain.index(stop) + 1
    late = ask(kjv, stop_token_ids=[stop], min_tokens=20)
    assert stop not in ids(late)[:20]
    assert len(ids(late)) >= 20


def test_no_stop_string_before_min_tokens(kjv: Server) -> None:
    text = ask(kjv)["choices"][0]["text"]
    stop = text[2:5]
    assert ask(kjv, stop=stop)["choices"][0]["text"] == text[: text.index(stop)]
    assert len(ids(ask(kjv, stop=stop, min_tokens=30))) >= 30


def test_a_stop_string_may_be_shown(kjv: Server) -> None:
    text = ask(kjv)["choices"][0]["text"]
    stop = text[6:10]
    shown = ask(kjv, stop=stop, include_stop_str_in_output=True)["choices"][0]
    assert shown["text"] == text[: text.index(stop) + len(stop)]
    assert shown["finish_reason"] == "stop"


def test_min_p_of_one_is_greedy(kjv: Server) -> None:
    assert ids(ask(kjv, temperature=1.5, min_p=1.0, seed=1)) == ids(ask(kjv))


def test_choices_of_a_shared_prompt_are_those_of_their_seeds(kjv: Server) -> None:
    together = ask(kjv, n=4, temperature=1.0, seed=40, frequency_penalty=0.5)
    for index in range(4):
        alone = ask(kjv, temperature=1.0, seed=40 + index, frequency_penalty=0.5)
        assert ids(together, index) == ids(alone)


def test_a_salt_or_a_priority_changes_no_token(kjv: Server) -> None:
    assert ids(ask(kjv, cache_salt="mine", priority=7)) == ids(ask(kjv))


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_told(kjv: Server, stream: bool) -> None:
    body = {"model": "model", "prompt": PROMPT, "max_tokens": 900, "ignore_eos": True}
    body |= {"timeout": 1e-6, "stream": stream}
    answer = httpx.post(f"{kjv.url}/v1/completions", json=body, timeout=DEADLINE)
    assert "deadline_exceeded" in answer.text
    assert answer.status_code == (200 if stream else 408)


def test_openais_client_does_not_ask_again_for_an_answer_that_came_too_late(kjv: Server) -> None:
    before = kjv.metric('pitcrew_requests_refused_total{code="408"}')
    client = openai.OpenAI(base_url=f"{kjv.url}/v1", api_key="none", max_retries=2)
    with client, pytest.raises(openai.APIStatusError) as late:
        client.completions.create(
            model="model", prompt=PROMPT, max_tokens=900, extra_body={"timeout": 1e-6}
        )
    assert late.value.status_code == 408
    assert kjv.metric('pitcrew_requests_refused_total{code="408"}') - before == 1
