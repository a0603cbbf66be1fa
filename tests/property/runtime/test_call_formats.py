"""Calls as the families write them: however a text is cut, the same calls and the same text."""

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.text.calls.formats import CallFormat, reader_of
from pitcrew_runtime.text.calls.xml_calls import Schemas
from tests.property.runtime.clients import CUTS, Call, cut, read, told

ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=8), max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(["smite", "bless"]), ARGUMENTS), min_size=1, max_size=3)
PROSE = st.text(st.characters(exclude_characters="<[{"), max_size=20)
mistral = partial(reader_of, CallFormat.MISTRAL)
granite = partial(reader_of, CallFormat.TOKENS)

SCHEMAS: Schemas = {
    "smite": {
        "type": "object",
        "properties": {
            "whom": {"type": "string"},
            "times": {"type": "integer"},
            "hard": {"type": "boolean"},
            "with": {"type": "array"},
            "how": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "price": {"type": ["number", "null"]},
            "place": {"$ref": "#/$defs/place"},
            "day": {"enum": ["first", 7]},
            "sort": {"const": "quick"},
        },
    }
}
xml = partial(reader_of, CallFormat.HERMES, schemas=SCHEMAS)


def array(calls: list[Call]) -> str:
    return json.dumps([{"name": name, "arguments": given} for name, given in calls])


@given(CALLS, PROSE, CUTS, st.sampled_from(["", " "]))
def test_mistral_arrays(calls: list[Call], prose: str, cuts: list[int], gap: str) -> None:
    text = f"{prose}[TOOL_CALLS]{gap}{array(calls)}"
    assert read(mistral(), text, cuts) == (prose.rstrip(), calls)
    assert read(mistral(parallel=False), text, cuts) == (prose.rstrip(), calls[:1])


@given(CALLS, PROSE, CUTS, st.sampled_from(["", "[ARGS]", "[CALL_ID]a1B2c3D4e[ARGS]", " "]))
def test_mistral_names(calls: list[Call], prose: str, cuts: list[int], between: str) -> None:
    written = "".join(f"[TOOL_CALLS]{name}{between}{json.dumps(one)}" for name, one in calls)
    assert read(mistral(), prose + written, cuts) == (prose.rstrip(), calls)


@given(CALLS, PROSE, CUTS, st.sampled_from(["", "<|/tool_call|>"]))
def test_granite(calls: list[Call], prose: str, cuts: list[int], close: str) -> None:
    text = f"{prose}<|tool_call|>{array(calls)}{close}"
    assert read(granite(), text, cuts) == (prose.rstrip(), calls)


def test_ids_of_mistral_are_as_its_templates_demand() -> None:
    (piece,) = mistral().feed("[TOOL_CALLS]smite{}").calls
    assert piece.id is not None
    assert len(piece.id) == 9
    assert piece.id.isalnum()
    assert piece.id.isascii()


VALUES = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20)


def parameter(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def function(*parameters: str, name: str = "smite") -> str:
    return f"<tool_call>\n<function={name}>\n{''.join(parameters)}</function>\n</tool_call>"


@given(VALUES, st.integers(), st.booleans(), st.lists(st.integers()), PROSE, CUTS)
def test_xml(
    whom: str, times: int, hard: bool, weapons: list[int], prose: str, cuts: list[int]
) -> None:
    text = function(
        parameter("whom", whom),
        parameter("times", str(times)),
        parameter("hard", str(hard)),
        parameter("with", json.dumps(weapons)),
    )
    call = ("smite", {"whom": whom, "times": times, "hard": hard, "with": weapons})
    assert read(xml(), prose + text + text, cuts) == (prose.rstrip(), [call, call])


@pytest.mark.parametrize(
    ("key", "written", "meant"),
    [
        ("whom", "7", "7"),
        ("whom", 'a "b" \\ \n\n c', 'a "b" \\ \n\n c'),
        ("whom", "<b>&amp;</b>", "<b>&amp;</b>"),
        ("whom", "", ""),
        ("unknown", "7", "7"),
        ("times", "7", 7),
        ("times", " 7 ", 7),
        ("times", "seven", "seven"),
        ("times", "7.0", 7.0),
        ("times", "NaN", "NaN"),
        ("hard", "True", True),
        ("hard", "1", "1"),
        ("with", '["sling", {"stone": 5}]', ["sling", {"stone": 5}]),
        ("how", "null", None),
        ("how", "7", "7"),
        ("price", "None", None),
        ("price", "3", 3),
        ("place", '{"x": 1}', {"x": 1}),
        ("place", "Gath", "Gath"),
        ("day", "first", "first"),
        ("day", "7", "7"),
        ("sort", "quick", "quick"),
    ],
)
@pytest.mark.parametrize("cuts", [[], list(range(400))])
def test_what_values_mean(key: str, written: str, meant: object, cuts: list[int]) -> None:
    expected: dict[str, Any] = {key: meant}
    assert read(xml(), function(parameter(key, written)), cuts) == ("", [("smite", expected)])


def test_text_comes_as_it_is_written() -> None:
    reader = xml()
    reader.feed("<tool_call>\n<function=smite>\n<parameter=whom>\n")
    assert [piece.arguments for piece in reader.feed("Go").calls] == ["Go"]
    assert reader.feed("\n").calls == (), "it may belong to the closing tag"
    assert [piece.arguments for piece in reader.feed("liath").calls] == ["\\nliath"]


@given(
    VALUES, st.integers(0, 10_000), st.integers(0, 9), st.sampled_from(["", "<", ">", "x"]), CUTS
)
def test_a_fault_is_told_alike_however_the_text_is_cut(
    whom: str, at: int, lost: int, wrong: str, cuts: list[int]
) -> None:
    whole = "Yea. " + function(parameter("whom", whom), parameter("times", "7")) + " Amen."
    at %= len(whole)
    text = whole[:at] + wrong + whole[at + lost :]
    assert told(xml(), list(text)) == told(xml(), cut(text, cuts)) == told(xml(), [text])


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("<tool_call><function=></function></tool_call>", None, []),
        ("<tool_call><fun>x</fun></tool_call>", None, []),
        ("<tool_call><function=f></function>", "", [("f", "{}")]),
        ("<tool_call><function=f></function></tool_", "", [("f", "{}")]),
        ("<tool_call><function=f></function> so <b>", " so <b>", [("f", "{}")]),
        (
            "<tool_call><function=f>so</function></tool_call>",
            "so</function></tool_call>",
            [("f", "{")],
        ),
        ("<tool_call><function=f><parameter=a>go", "", [("f", '{"a": "go')]),
    ],
)
@pytest.mark.parametrize("by_character", [False, True])
def test_xml_that_is_wrong(
    text: str, said: str | None, calls: list[tuple[str, str]], by_character: bool
) -> None:
    found = told(xml(), list(text) if by_character else [text])
    assert found == (text if said is None else said, calls)


@given(st.text(st.sampled_from("[TOOL_CALLS]{}ab \n"), max_size=40), CUTS)
def test_what_is_no_call_of_mistral_is_text(text: str, cuts: list[int]) -> None:
    said, calls = told(mistral(), cut(text, cuts))
    if "{" not in text:
        assert (said, calls) == (text, [])


@pytest.mark.parametrize(
    "text", ["[TOOL_CALLS]", "[TOOL_CALLS] \n", "[TOOL_CALLS]a b c", "[TOOL_CALLS]é{}", "[TOOL_"]
)
def test_tags_without_calls_are_text(text: str) -> None:
    assert told(mistral(), list(text)) == (text, [])


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": 5},
        {"properties": {"whom": {"type": 5}}},
        {"properties": {"whom": {"type": [{}]}}},
        {"properties": {"whom": {"enum": 5, "anyOf": 5, "oneOf": [5]}}},
    ],
)
def test_what_is_no_schema_tells_nothing(parameters: dict[str, Any]) -> None:
    reader = reader_of(CallFormat.HERMES, schemas={"smite": parameters})
    said, calls = read(reader, function(parameter("whom", "Saul")), [])
    assert (said, calls) == ("", [("smite", {"whom": "Saul"})])
