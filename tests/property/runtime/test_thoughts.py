"""Thoughts, answer and calls are told apart alike however the text is cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.text.calls.formats import CallFormat, reader_of
from pitcrew_runtime.text.reading import Read, Reader, joined
from pitcrew_runtime.text.thoughts import Thoughts

CUTS = st.lists(st.integers(0, 10_000), max_size=12)
WORDS = st.text(st.sampled_from("ab <>/think\n{}"), max_size=30)


def read(reader: Reader, text: str, cuts: list[int]) -> Read:
    edges = [0, *sorted(at % (len(text) + 1) for at in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    return joined([*(reader.feed(piece) for piece in pieces), reader.flush()])


@given(WORDS, WORDS, CUTS)
def test_thoughts_come_before_the_answer(thought: str, answer: str, cuts: list[int]) -> None:
    thought = thought.replace("</think>", "").replace("<think>", "")
    expected = Read(answer.lstrip(), reasoning=thought.strip())
    text = f"<think>{thought}</think>{answer}"
    assert read(Thoughts(Reader(), inside=False), text, cuts) == expected
    assert read(Thoughts(Reader(), inside=True), text, cuts) == expected
    assert read(Thoughts(Reader(), inside=True), text.removeprefix("<think>"), cuts) == expected


@given(WORDS, st.booleans(), CUTS)
def test_any_text_is_read_alike_however_it_is_cut(text: str, inside: bool, cuts: list[int]) -> None:
    whole = read(Thoughts(Reader(), inside), text, [])
    assert read(Thoughts(Reader(), inside), text, cuts) == whole
    if not inside and not text.lstrip().startswith("<think>"):
        assert whole == Read(text)


@pytest.mark.parametrize(
    ("text", "inside", "expected"),
    [
        ("Verily.", False, Read("Verily.")),
        (" Verily.", False, Read(" Verily.")),
        ("<thin", False, Read("<thin")),
        ("<think>So", False, Read(reasoning="So")),
        ("So", True, Read(reasoning="So")),
        ("So </thin", True, Read(reasoning="So </thin")),
        ("<think>\n\n</think>\n\nYea", False, Read("Yea")),
        ("Yea <think>no</think>", False, Read("Yea <think>no</think>")),
        ("", False, Read()),
        ("", True, Read()),
    ],
)
def test_texts(text: str, inside: bool, expected: Read) -> None:
    assert read(Thoughts(Reader(), inside), text, list(range(len(text)))) == expected


def test_thoughts_come_at_once() -> None:
    reader = Thoughts(Reader(), inside=False)
    reader.feed("<think>\n")
    for piece in ("I", " think", ","):
        assert reader.feed(piece) == Read(reasoning=piece)


@given(CUTS)
def test_calls_are_found_behind_thoughts_only(cuts: list[int]) -> None:
    call = f"<tool_call>{json.dumps({'name': 'smite', 'arguments': {'n': 1}})}</tool_call>"
    reader = Thoughts(reader_of(CallFormat.HERMES), inside=False)
    found = read(reader, f"<think>Shall I {call}?</think>\n\n{call}", cuts)
    assert (found.reasoning, found.text) == (f"Shall I {call}?", "")
    assert {piece.index for piece in found.calls} == {0}
    assert "".join(piece.arguments for piece in found.calls) == '{"n": 1}'
    assert reader.called
