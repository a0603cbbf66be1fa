"""Calls are found alike however the text is cut, and nothing that was said is lost."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.text.calls.formats import CallFormat, reader_of
from pitcrew_runtime.text.calls.message import MessageCalls, OneCall
from pitcrew_runtime.text.reading import Read, Reader
from tests.property.runtime.clients import CUTS, Call, cut, read, told

hermes_reader = partial(reader_of, CallFormat.HERMES)

ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=8), max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(["smite", "bless"]), ARGUMENTS), min_size=1, max_size=3)
PROSE = st.text(st.characters(exclude_characters="<{"), max_size=20)


def hermes(calls: list[Call]) -> str:
    return "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': given})}\n</tool_call>"
        for name, given in calls
    )


@given(CALLS, PROSE, CUTS)
def test_hermes(calls: list[Call], prose: str, cuts: list[int]) -> None:
    said, found = read(hermes_reader(), prose + hermes(calls), cuts)
    assert found == calls
    assert said == prose.rstrip()


@given(CALLS, CUTS, st.sampled_from([";", "; ", "\n", ""]))
def test_llama(calls: list[Call], cuts: list[int], between: str) -> None:
    written = between.join(json.dumps({"name": name, "parameters": given}) for name, given in calls)
    assert read(MessageCalls(), written, cuts) == ("", calls)
    assert read(MessageCalls(parallel=False), written, cuts) == ("", calls[:1])


@given(CALLS, CUTS)
def test_an_array_of_calls(calls: list[Call], cuts: list[int]) -> None:
    written = json.dumps([{"name": name, "parameters": given} for name, given in calls])
    assert read(MessageCalls(), written, cuts) == ("", calls)
    tagged = f"Yea <tool_call>{written}</tool_call>"
    assert read(hermes_reader(), tagged, cuts) == ("Yea", calls)


@given(ARGUMENTS, ARGUMENTS, st.permutations(["name", "arguments", "id", "x"]), CUTS)
def test_members_in_any_order(
    arguments: dict[str, Any], other: dict[str, Any], order: list[str], cuts: list[int]
) -> None:
    members = {"name": "smite", "arguments": arguments, "id": 7, "x": {"arguments": [other]}}
    written = json.dumps({key: members[key] for key in order})
    assert read(MessageCalls(), written, cuts) == ("", [("smite", arguments)])


@given(ARGUMENTS, st.sampled_from(["<tool_call>", ""]))
def test_arguments_come_at_once(arguments: dict[str, Any], tag: str) -> None:
    """Nothing of them waits, and nothing of the call comes before they begin."""
    reader: Reader = hermes_reader() if tag else MessageCalls()
    for char in f'{tag}{{"name": "smite", "arguments": ':
        assert reader.feed(char) == Read()
    for place, char in enumerate(json.dumps(arguments)):
        (piece,) = reader.feed(char).calls
        assert piece.arguments == char
        assert (piece.name is None) == (piece.id is None) == bool(place)


@given(ARGUMENTS, CUTS)
def test_one_call(given_arguments: dict[str, Any], cuts: list[int]) -> None:
    written = json.dumps(given_arguments)
    assert read(OneCall("smite"), written, cuts) == ("", [("smite", given_arguments)])


@given(st.text(st.sampled_from('<tool_call>/{}": ;[]na'), max_size=60), CUTS)
def test_what_is_no_call_is_text(text: str, cuts: list[int]) -> None:
    for reader in (hermes_reader(), MessageCalls()):
        assert read(reader, text, cuts) == (text, [])


WRONG = st.sampled_from(["", "x", "}", '"', "]", "[", "{", "</tool_call>", "<tool_call>", "1", ","])


@given(CALLS, WRONG, st.integers(0, 10_000), st.integers(0, 9), CUTS)
def test_a_fault_is_told_alike_however_the_text_is_cut(
    calls: list[Call], wrong: str, at: int, lost: int, cuts: list[int]
) -> None:
    """Something is put into the text, or left out of it. What is told stays right up to there."""
    for make, text in (
        (hermes_reader, "Yea. " + hermes(calls) + " Amen."),
        (MessageCalls, json.dumps([{"name": name, "parameters": one} for name, one in calls])),
    ):
        at %= len(text)
        text = text[:at] + wrong + text[at + lost :]
        whole = told(make(), [text])
        assert told(make(), list(text)) == told(make(), cut(text, cuts)) == whole
        for _, arguments in whole[1]:
            assert arguments == "{}" or arguments in text, "they are as the model wrote them"


@given(CALLS, st.integers(0, 10_000), CUTS)
def test_what_is_cut_off(calls: list[Call], at: int, cuts: list[int]) -> None:
    """By max_tokens: the arguments stay as far as they came, and what had not become a call is text."""
    whole = json.dumps([{"name": name, "parameters": one} for name, one in calls])
    text = whole[: at % len(whole)]
    said, found = told(MessageCalls(), cut(text, cuts))
    assert text.endswith(said)
    for (name, arguments), (right, given_arguments) in zip(found, calls, strict=False):
        assert (name, json.dumps(given_arguments)[: len(arguments)]) == (right, arguments)


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', None, []),
        ('Yea <tool_call>{"name": 1, "arguments": {}}</tool_call>', None, []),
        ('<tool_call>{"arguments": {"n": 1}}</tool_call>', None, []),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', None, []),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        (
            '<tool_call>{"name": "f", "arguments": {"a": nope}}</tool_call>',
            "ope}}</tool_call>",
            [("f", '{"a": n')],
        ),
        (
            '<tool_call>{"name": "f", "arguments": {}</tool_call> Amen',
            "</tool_call> Amen",
            [("f", "{}")],
        ),
        (
            '<tool_call>{"name": "f", "arguments": {"t": "</tool_call>"}}</tool_call>',
            "",
            [("f", '{"t": "</tool_call>"}')],
        ),
        (
            '<tool_call>{"name": "f", "arguments": {}}</tool_call> and <tool_call>x</tool_call>',
            " and <tool_call>x</tool_call>",
            [("f", "{}")],
        ),
    ],
)
def test_calls_that_are_wrong(text: str, said: str | None, calls: list[tuple[str, str]]) -> None:
    assert told(hermes_reader(), list(text)) == (text if said is None else said, calls)


def test_a_call_that_broke_off_is_not_called() -> None:
    reader = hermes_reader()
    told(reader, ['<tool_call>{"name": "f", "arguments": {"a": oops}}</tool_call>'])
    assert not reader.called


def test_a_call_that_is_not_certain_is_held_and_given_back() -> None:
    reader = MessageCalls()
    assert reader.feed('{"name": "smite", ') == Read()
    assert reader.feed('"wh') == Read()
    assert reader.flush() == Read('{"name": "smite", "wh')


def test_only_the_first_call_where_several_are_not_wanted() -> None:
    call = '<tool_call>{"name": "smite", "arguments": {}}</tool_call>'
    assert read(hermes_reader(parallel=False), call * 3, [])[1] == [("smite", {})]


def test_a_forgotten_closing_tag_is_forgiven() -> None:
    text = 'Yea. <tool_call>{"name": "smite", "arguments": {"n": 1}}'
    assert read(hermes_reader(), text, [7]) == ("Yea.", [("smite", {"n": 1})])
