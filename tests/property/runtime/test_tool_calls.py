"""Calls are found alike however the text is cut, and nothing that was said is lost."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.text.tool_calls import (
    CallFormat,
    CallList,
    CallReader,
    HermesCalls,
    LlamaCalls,
    OneCall,
    Read,
    format_of,
)

Call = tuple[str, dict[str, Any]]

ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=8), max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(["smite", "bless"]), ARGUMENTS), min_size=1, max_size=3)
PROSE = st.text(st.characters(exclude_characters="<{"), max_size=20)


def read(reader: CallReader, text: str, cuts: list[int]) -> tuple[str, list[Call]]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    reads = [*(reader.feed(piece) for piece in pieces), reader.flush()]
    calls: dict[int, list[str]] = {}
    for piece in (piece for one in reads for piece in one.calls):
        if piece.name is not None:
            assert piece.index == len(calls)
            assert piece.id is not None
            calls[piece.index] = [piece.name, ""]
        calls[piece.index][1] += piece.arguments
    said = "".join(one.text for one in reads)
    return said, [(name, json.loads(arguments)) for name, arguments in calls.values()]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(CALLS, PROSE, CUTS)
def test_hermes(calls: list[Call], prose: str, cuts: list[int]) -> None:
    written = "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': given})}\n</tool_call>"
        for name, given in calls
    )
    said, found = read(HermesCalls(), prose + written, cuts)
    assert found == calls
    assert said == prose.rstrip()


@given(CALLS, CUTS, st.sampled_from([";", "; ", "\n", ""]))
def test_llama(calls: list[Call], cuts: list[int], between: str) -> None:
    written = between.join(json.dumps({"name": name, "parameters": given}) for name, given in calls)
    assert read(LlamaCalls(), written, cuts) == ("", calls)
    assert read(LlamaCalls(parallel=False), written, cuts) == ("", calls[:1])


@given(CALLS, CUTS)
def test_a_list_of_calls(calls: list[Call], cuts: list[int]) -> None:
    written = json.dumps([{"name": name, "parameters": given} for name, given in calls])
    assert read(CallList(), written, cuts) == ("", calls)
    rest = written[: len(written) - 1 - cuts[0] % len(written)] if cuts else written[:-1]
    said, found = read(CallList(), rest, cuts[1:])
    assert found == calls[: len(found)]
    assert rest.endswith(said), "what was cut off is text"


@given(CALLS)
def test_a_call_of_a_list_comes_when_it_is_whole(calls: list[Call]) -> None:
    reader, come = CallList(), 0
    for place, (name, arguments) in enumerate(calls):
        written = json.dumps({"name": name, "parameters": arguments})
        for text in ("[" if place == 0 else ", ", written[:-1]):
            assert reader.feed(text).calls == ()
        come += len(reader.feed(written[-1]).calls)
        assert come == place + 1
    assert reader.feed("]") == reader.flush() == Read()


@given(ARGUMENTS, CUTS)
def test_one_call(given_arguments: dict[str, Any], cuts: list[int]) -> None:
    written = json.dumps(given_arguments)
    assert read(OneCall("smite"), written, cuts) == ("", [("smite", given_arguments)])


@given(st.text(st.sampled_from('<tool_call>/{}": ;[]na'), max_size=60), CUTS)
def test_what_is_no_call_is_text(text: str, cuts: list[int]) -> None:
    for reader, other in ((HermesCalls(), HermesCalls()), (LlamaCalls(), LlamaCalls())):
        said, calls = read(reader, text, cuts)
        assert (said, calls) == read(other, text, [])
        assert calls == []
        assert said.replace(" ", "") == text.replace(" ", "")


def test_only_the_first_call_where_several_are_not_wanted() -> None:
    call = '<tool_call>{"name": "smite", "arguments": {}}</tool_call>'
    assert read(HermesCalls(parallel=False), call * 3, [])[1] == [("smite", {})]


def test_a_forgotten_closing_tag_is_forgiven() -> None:
    text = 'Yea. <tool_call>{"name": "smite", "arguments": {"n": 1}}'
    assert read(HermesCalls(), text, [7]) == ("Yea.", [("smite", {"n": 1})])


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '<tool_call>' }}", CallFormat.HERMES),
        ('<|python_tag|> {"name": x, "parameters": y}', CallFormat.LLAMA3_JSON),
        ("{{ messages }}", None),
    ],
)
def test_templates_tell_the_format(template: str, form: CallFormat | None) -> None:
    assert format_of(template) is form
