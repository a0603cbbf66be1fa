"""Streaming text equals whole text, however it is cut."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from pitcrew_runtime.text.detokenizer import Detokenizer
from pitcrew_runtime.text.stops import StopFinder
from pitcrew_runtime.text.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[3] / "samples/models/tiny-kjv"
KJV = Tokenizer.load(
    (FOLDER / "tokenizer.json").read_bytes(), (FOLDER / "tokenizer_config.json").read_bytes()
)


def byte_fallback() -> Backend:
    """A tokenizer as Llama 2's: words with a leading mark, other characters as bytes."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for word in ("▁the", "▁king", "s", "▁", "a", "é"):
        vocabulary[word] = len(vocabulary)
    backend = Backend(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


FALLBACK_BACKEND = byte_fallback()
FALLBACK = Tokenizer(FALLBACK_BACKEND, {})


def streamed(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@given(st.lists(st.integers(0, 2047), max_size=60))
def test_any_byte_level_tokens(ids: list[int]) -> None:
    assert "".join(streamed(KJV.detokenizer(), ids)) == KJV.decode(ids)


@given(st.text(max_size=60))
def test_no_piece_of_sound_text_is_broken(text: str) -> None:
    pieces = streamed(KJV.detokenizer(), KJV.encode(text))
    assert "".join(pieces) == KJV.decode(KJV.encode(text))
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(st.lists(st.sampled_from(["▁the", "▁king", "s", "▁", "é", "😀", "€", "A"]), max_size=30))
def test_byte_fallback_text(words: list[str]) -> None:
    ids: list[int] = []
    for word in words:
        known = FALLBACK_BACKEND.token_to_id(word)
        ids += list(word.encode()) if known is None else [known]
    pieces = streamed(FALLBACK.detokenizer(), ids)
    assert "".join(pieces) == FALLBACK.decode(ids)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@given(st.lists(st.sampled_from([0x80, 0xE2, 0x82, 0xAC, 0xF0, 0x41]), max_size=400))
def test_rubbish_is_decoded_in_a_bounded_window(stream: list[int]) -> None:
    alphabet = {KJV.token_bytes(token): token for token in range(2048)}
    longest = 0

    def decode(ids: object) -> str:
        nonlocal longest
        assert isinstance(ids, list)
        longest = max(longest, len(ids))
        return KJV.decode(ids)

    ids = [alphabet[bytes([byte])] for byte in stream]
    assert "".join(streamed(Detokenizer(decode), ids)) == KJV.decode(ids)
    assert longest <= 32


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(st.data(), st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=5)))
def test_stops_do_not_depend_on_the_cuts(data: st.DataObject, text: str, stops: list[str]) -> None:
    whole, pieces = StopFinder(stops), StopFinder(stops)
    expected = whole.feed(text)
    found = "".join(pieces.feed(piece) for piece in data.draw(cut(text)))
    if not whole.found:
        expected, found = expected + whole.flush(), found + pieces.flush()
        assert expected == text
    assert (found, pieces.found) == (expected, whole.found)
    assert not any(stop in found for stop in stops)
    assert whole.found == any(stop in text for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "out"),
    [
        (["to be", " or", " not"], ["to be", "", " not"]),
        (["to b", "e END", " more"], ["to b", "e ", ""]),
        (["EN", "EN", "D"], ["", "EN", ""]),
    ],
)
def test_text_is_held_back_no_longer_than_needed(pieces: list[str], out: list[str]) -> None:
    finder = StopFinder(["END", " order"])
    expected = [" or not" if text == " not" else text for text in out]
    assert [finder.feed(piece) for piece in pieces] == expected
