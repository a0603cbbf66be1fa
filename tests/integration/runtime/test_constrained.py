"""Constraints and tool calls through the official client, on a model that was trained for neither."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.runtime.conftest import Engines, give_template
from tests.integration.runtime.servers import Server, serving

TEMPLATE = (
    "{% if tools %}Tools (call with <tool_call>): {{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.arguments.verse }}{% endfor %}"
    "{% endfor %}"
)
SMITE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "smite",
        "description": "Smite somebody.",
        "parameters": {
            "type": "object",
            "properties": {"whom": {"enum": ["Saul", "Goliath"]}},
            "required": ["whom"],
            "additionalProperties": False,
        },
    },
}
BLESS = {"type": "function", "function": {"name": "bless"}}
MESSAGES = [{"role": "developer", "content": "Be just."}, {"role": "user", "content": "Speak"}]
SCHEMA = SMITE["function"]["parameters"]


@pytest.fixture(scope="module")
def prophet(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose chat template knows tools."""
    give_template("prophet", TEMPLATE, tmp_path_factory.mktemp("checkpoint") / "tiny-kjv")
    with serving(engines("prophet"), tmp_path_factory.mktemp("prophet")) as server:
        yield server


def chat(server: Server, **more: Any) -> Any:  # noqa: ANN401
    with server.client as client:
        answer = client.chat.completions.create(
            model="model", **{"messages": MESSAGES, "max_tokens": 200, "temperature": 0, **more}
        )
        return list(answer) if more.get("stream") else answer.choices[0]


def complete(server: Server, **extra: Any) -> Any:  # noqa: ANN401
    with server.client as client:
        answer = client.completions.create(
            model="model", prompt="And he said,", max_tokens=60, extra_body=extra
        )
        return answer.choices[0]


def test_json_schema(kjv: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "deed", "schema": SCHEMA}}
    for seed in range(3):
        choice = chat(kjv, response_format=form, temperature=1.0, seed=seed)
        assert json.loads(choice.message.content)["whom"] in ("Saul", "Goliath")
        assert choice.finish_reason == "stop"


def test_json_object(kjv: Server) -> None:
    choice = chat(kjv, response_format={"type": "json_object"}, max_tokens=400, seed=3)
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.lstrip().startswith("{")


@pytest.mark.parametrize("n", [1, 3])
def test_regex_choice_and_grammar(kjv: Server, n: int) -> None:
    asked: list[tuple[dict[str, Any], str]] = [
        ({"guided_regex": "(yea|nay){2,4}!"}, "(yea|nay){2,4}!"),
        ({"structured_outputs": {"choice": ["a.b", "c|d"]}}, r"a\.b|c\|d"),
        ({"guided_grammar": 'start: "x" "y"+ "z"\n'}, "xy+z"),
        ({"guided_regex": "[a-z]{3}", "min_tokens": 2, "temperature": 2}, "[a-z]{3}"),
    ]
    for fields, pattern in asked:
        with kjv.client as client:
            answer = client.completions.create(
                model="model", prompt="Say", max_tokens=90, n=n, logprobs=1, extra_body=fields
            )
        for choice in answer.choices:
            assert choice.finish_reason == "stop", choice.text
            assert re.fullmatch(pattern, choice.text)


def test_a_grammar_that_is_given_up_fails_its_own_request_only(kjv: Server) -> None:
    properties = {f"p{n}": {"type": "string", "minLength": n} for n in range(1300)}
    heavy = {"type": "object", "properties": properties}
    body = {"model": "model", "prompt": "Say", "max_tokens": 60, "guided_json": heavy}
    answer = httpx.post(f"{kjv.url}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert "too complex" in answer.json()["error"]["message"]
    assert complete(kjv, guided_regex="yea").text == "yea"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chosen_function_is_called(prophet: Server, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "smite"}}
    answer = chat(prophet, tools=[SMITE, BLESS], tool_choice=choice, stream=stream)
    name, arguments, reason = joined(answer) if stream else whole(answer)
    assert name == ["smite"]
    assert json.loads(arguments[0])["whom"] in ("Saul", "Goliath")
    assert reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_some_function_is_called_where_one_is_required(prophet: Server, stream: bool) -> None:
    asked = {"tools": [SMITE, BLESS], "tool_choice": "required", "parallel_tool_calls": False}
    answer = chat(prophet, **asked, stream=stream)
    names, arguments, reason = joined(answer) if stream else whole(answer)
    assert len(names) == 1
    if stream:
        assert sum(bool(chunk.choices[0].delta.tool_calls) for chunk in answer) > 2, "as they come"
    assert names[0] in ("smite", "bless")
    assert isinstance(json.loads(arguments[0]), dict)
    assert reason == "tool_calls"


def test_calls_that_the_model_writes_itself_are_found(prophet: Server) -> None:
    """The model is held to what a trained one would write."""
    call = '<tool_call>{"name": "smite", "arguments": {"whom": "Saul"}}</tool_call>'
    held = {"guided_choice": [f"Yea. {call}"]}
    asked = {"tools": [SMITE], "extra_body": held}
    names, arguments, reason = whole(chosen := chat(prophet, **asked))
    assert chosen.message.content == "Yea."
    assert (names, arguments, reason) == (["smite"], ['{"whom": "Saul"}'], "tool_calls")
    chunks = chat(prophet, **asked, stream=True)
    assert joined(chunks) == (names, arguments, reason)
    assert sum(bool(chunk.choices[0].delta.tool_calls) for chunk in chunks) > 2, "as they come"
    assert call in chat(prophet, **asked, tool_choice="none").message.content


@pytest.mark.parametrize("stream", [False, True])
def test_several_calls_are_told_apart(prophet: Server, stream: bool) -> None:
    calls = [
        f'<tool_call>{{"name": "smite", "arguments": {{"whom": "{whom}"}}}}</tool_call>'
        for whom in ("Saul", "Goliath")
    ]
    asked = {"tools": [SMITE], "stream": stream}
    asked["extra_body"] = {"guided_choice": ["\n".join(calls)]}
    read = joined if stream else whole
    both = read(chat(prophet, **asked))
    assert both == (["smite"] * 2, ['{"whom": "Saul"}', '{"whom": "Goliath"}'], "tool_calls")
    one = read(chat(prophet, **asked, parallel_tool_calls=False))
    assert one == (["smite"], ['{"whom": "Saul"}'], "tool_calls")


def test_the_template_sees_tools_calls_and_results(prophet: Server) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "smite", "arguments": '{"verse": 7}'},
    }
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    body = {"model": "model", "messages": [*MESSAGES, *turns], "tools": [SMITE]}
    ids = httpx.post(f"{prophet.url}/tokenize", json=body).json()["tokens"]
    text = httpx.post(f"{prophet.url}/detokenize", json={"tokens": ids}).json()["prompt"]
    assert json.dumps(SMITE) in text
    assert text.endswith("system: Be just.user: Speakassistant: 7tool: done")


def whole(choice: Any) -> tuple[list[str], list[str], str]:  # noqa: ANN401
    calls = choice.message.tool_calls
    assert all(call.id.startswith("call_") for call in calls)
    functions = [call.function for call in calls]
    return (
        [one.name for one in functions],
        [one.arguments for one in functions],
        choice.finish_reason,
    )


def joined(chunks: Any) -> tuple[list[str], list[str], str]:  # noqa: ANN401
    names: list[str] = []
    arguments: list[str] = []
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or ():
            if call.id is not None:
                assert call.index == len(names)
                names.append(call.function.name)
                arguments.append("")
            arguments[call.index] += call.function.arguments
    return names, arguments, chunks[-1].choices[0].finish_reason
