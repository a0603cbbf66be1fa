"""A value as it comes is taken exactly as far as the standard library would."""

import json
from typing import Any, NoReturn

from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.text.json_text import JsonText

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
PIECES = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "\\",
    "u",
    "00e4",
    "null",
    "true",
    "nul",
    " ",
    "\n",
    "-",
]
PIECES += ["0", "12", ".", "5", "e", "E+", "a", "\x01"]


def taken(text: str) -> tuple[JsonText, str]:
    """The state behind the longest beginning that is taken, and that beginning."""
    json_text = JsonText()
    for place, char in enumerate(text):
        if not json_text.push(char):
            return json_text, text[:place]
    return json_text, text


def is_value(text: str) -> bool:
    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_values_are_taken_whole(value: Any, ascii_only: bool, indent: int | None) -> None:  # noqa: ANN401
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    json_text, found = taken(text)
    assert found == text
    assert (json_text.depth, json_text.in_string) == (0, False)


def completed(text: str) -> str:
    """A value that begins so, by the first character each time with which it can go on."""
    while not is_value(text):
        text += next(char for char in '"}]:0ulersa' if taken(text + char)[1] == text + char)
        assert len(text) < 200
    return text


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_no_more_is_taken_than_begins_a_value(text: str) -> None:
    _, found = taken(text)
    assert completed(found).startswith(found)
    assert found == text or not is_value(text)
