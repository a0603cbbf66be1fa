"""Thoughts through the official client, by a template that opens them unless it is told not to."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.integration.runtime.conftest import Engines, give_template
from tests.integration.runtime.servers import Server, serving

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% if message.reasoning_content %}[{{ message.reasoning_content }}]{% endif %}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Speak"}]
WITHOUT = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture(scope="module")
def thinker(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    give_template("thinker", TEMPLATE, tmp_path_factory.mktemp("checkpoint") / "tiny-kjv")
    with serving(engines("thinker"), tmp_path_factory.mktemp("thinker")) as server:
        yield server


def ask(server: Server, **more: Any) -> Any:  # noqa: ANN401
    fields = {"messages": MESSAGES, "max_tokens": 24, "temperature": 0, "seed": 1, **more}
    with server.client as client:
        answer = client.chat.completions.create(model="model", **fields)
        return list(answer) if more.get("stream") else answer.choices[0].message


def test_thoughts_are_no_answer(thinker: Server) -> None:
    found = ask(thinker)
    assert found.content == ""
    assert found.reasoning_content
    chunks = ask(thinker, stream=True)
    thoughts = [chunk.choices[0].delta.model_dump().get("reasoning_content") for chunk in chunks]
    assert "".join(filter(None, thoughts)) == found.reasoning_content
    assert sum(map(bool, thoughts)) > 2, "as they come"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_a_template_is_told_not_to_think(thinker: Server) -> None:
    found = ask(thinker, extra_body=WITHOUT)
    assert found.content
    assert not hasattr(found, "reasoning_content")
    chunks = ask(thinker, extra_body=WITHOUT, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == found.content


def test_a_text_that_is_held_to_something_is_an_answer(thinker: Server) -> None:
    assert ask(thinker, extra_body={"guided_choice": ["Yea"]}).content == "Yea"


def test_thoughts_of_before_are_for_the_template(thinker: Server) -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "Yea", "reasoning_content": "Hm"}]
    ids = httpx.post(f"{thinker.url}/tokenize", json={"messages": turns, **WITHOUT}).json()[
        "tokens"
    ]
    text = httpx.post(f"{thinker.url}/detokenize", json={"tokens": ids}).json()["prompt"]
    assert text.startswith("user: Speakassistant: Yea[Hm]")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"chat_template_kwargs": {"think": True}},
            r"think: .* \(it reads enable_thinking\); leave it out",
        ),
        ({"chat_template_kwargs": {"enable_thinking": [1]}}, "chat_template_kwargs"),
        ({"reasoning_effort": "low"}, "reasoning_effort: .* does not read it"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"messages": [{**MESSAGES[0], "reasoning_content": "x"}]}, "an assistant's"),
    ],
)
def test_what_a_template_does_not_read(
    thinker: Server, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        ask(thinker, messages=fields.pop("messages", MESSAGES), extra_body=fields)
