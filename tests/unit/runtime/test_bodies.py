"""What it costs to read a body is bounded by more than its bytes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.server.bodies import MAX_MEMBERS, MAX_VALUES, validated
from pitcrew_runtime.server.schemas import ChatBody, CompletionBody
from pitcrew_runtime.server.tokens import DetokenizeBody


def faults(model: type[BaseModel], body: dict[str, Any]) -> int:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(body)
    return refused.value.error_count()


@pytest.mark.parametrize("wrong", [-1, 1.5, "x", None, {}, [], [-1], [[]], 1 << 40], ids=str)
def test_a_long_list_is_left_at_its_first_fault(wrong: object) -> None:
    """A megabyte of wrong elements took seconds, and sixteen minutes and gigabytes."""
    many = [wrong] * 5000
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    assert faults(CompletionBody, {"model": "m", "prompt": many}) < 20
    assert faults(DetokenizeBody, {"tokens": many}) == 1
    assert faults(ChatBody, chat | {"messages": many}) <= 2
    message = {"role": "user", "content": many}
    assert faults(ChatBody, chat | {"messages": [message]}) < 5
    message = {"role": "assistant", "content": "", "tool_calls": many}
    assert faults(ChatBody, chat | {"messages": [message]}) <= 3


class Anything(BaseModel):
    text: str = ""
    values: Any = None


@pytest.mark.parametrize(
    "body",
    [
        {"values": [1] * (MAX_VALUES + 1)},
        {"values": [[]] * (MAX_VALUES + 1)},
        {"values": [{"a": 1}] * (MAX_MEMBERS + 1)},
        {f"k{number}": 1 for number in range(MAX_MEMBERS + 1)},
    ],
    ids=["values", "lists", "objects", "fields"],
)
def test_a_body_has_only_so_many_values(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="send fewer at a time"):
        validated(Anything, json.dumps(body).encode())


@pytest.mark.parametrize("text", [",", ":", "{}", '"', "\\", '\\",', '"\\\\":,'])
def test_text_is_one_value_whatever_is_in_it(text: str) -> None:
    body = {"text": text * (MAX_VALUES + 1), "values": [1, {"a": "b"}]}
    assert validated(Anything, json.dumps(body).encode()).model_dump() == body


@settings(max_examples=30, deadline=None)
@given(st.text('",:{}[]\\ax', max_size=12))
def test_what_is_no_json_is_refused_as_such(text: str) -> None:
    """However it is cut off: with so many commas that its strings have to be looked for."""
    raw = ('{"text": "' + "," * MAX_VALUES + '", "values": "' + text).encode()
    with pytest.raises(InvalidRequest, match=r"the body is not JSON|send fewer at a time"):
        validated(Anything, raw)


def test_more_faults_than_can_be_told() -> None:
    fields = {f"k{number}": 1 for number in range(5000)}
    with pytest.raises(InvalidRequest, match=r"5001 faults; /openapi\.json tells"):
        validated(CompletionBody, json.dumps({"model": "m", **fields}).encode())
