"""What a reader is shown while tokens come: certain, whole characters, and nothing of a stop string."""

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.request import Finish, Sampled, Update
from pitcrew_runtime.server.choice import Choice, Ending
from pitcrew_runtime.text.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[3] / "samples/models/tiny-kjv"
KJV = Tokenizer.load(
    (FOLDER / "tokenizer.json").read_bytes(), (FOLDER / "tokenizer_config.json").read_bytes()
)
WORDS = st.lists(
    st.sampled_from(["the", " LORD", " ", "é", "€", "😀", "👩‍👩‍👧", "ab", "a", "\n", "中文"]),
    max_size=14,
).map("".join)


@st.composite
def texts_and_stops(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text, and stop strings of which some are parts of it."""
    text = draw(WORDS)
    stops = []
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(text)))
        stops.append(text[begin : begin + draw(st.integers(1, 5))] or draw(st.sampled_from("x€")))
    return text, stops


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
    """Where the stop string that ends first begins and ends, the longest among those."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not found:
        return None
    end, begin = min(found)
    return begin, end


@given(texts_and_stops(), st.booleans())
def test_a_stream_is_the_text_up_to_its_stop(asked: tuple[str, list[str]], shown: bool) -> None:
    text, stops = asked
    choice = Choice(0, KJV, Ending(stops, shown))
    ids, said, finish = KJV.encode(text), "", None
    text = KJV.decode(ids)
    stop = first_stop(text, stops)
    expected = text if stop is None else text[: stop[1] if shown else stop[0]]
    for place, token in enumerate(ids):
        last = place == len(ids) - 1
        delta = choice.feed(Update(1, Sampled(token), Finish.LENGTH if last else None))
        assert "\N{REPLACEMENT CHARACTER}" not in delta.text
        said, finish = said + delta.text, delta.finish
        assert expected.startswith(said), "what was shown can never be taken back"
        if finish is not None:
            break
    assert said == expected
    if ids:
        assert finish == ("stop" if stop else "length")


@given(WORDS, st.sampled_from(["END", "the L", "€😀"]))
def test_text_waits_for_a_stop_string_only(text: str, stop: str) -> None:
    """So long as nothing could become the stop, every whole character is shown at once."""
    choice, ids, said = Choice(0, KJV, Ending([stop])), KJV.encode(text), ""
    for place, token in enumerate(ids):
        delta = choice.feed(Update(1, Sampled(token)))
        said += delta.text
        if delta.finish is not None:
            return
        certain = KJV.decode(ids[: place + 1])
        while certain.endswith("\N{REPLACEMENT CHARACTER}"):
            certain = certain[:-1]
        held = certain[len(said) :]
        assert stop.startswith(held), "it could begin here"
