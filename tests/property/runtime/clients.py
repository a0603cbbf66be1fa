"""What a client makes of a stream: texts cut anywhere, and what is told of them, joined."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from pitcrew_runtime.text.calls.message import OneCall
from pitcrew_runtime.text.reading import Reader

Call = tuple[str, dict[str, Any]]
CUTS = st.lists(st.integers(0, 10_000), max_size=12)


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(at % (len(text) + 1) for at in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def told(reader: Reader, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text, and the name and the arguments of each call, joined as a client would join them."""
    calls: dict[int, tuple[str, str]] = {}
    said = ""
    for one in [*(reader.feed(piece) for piece in pieces), reader.flush()]:
        said += one.text
        for piece in one.calls:
            if piece.name is not None:
                assert piece.index == len(calls)
                assert piece.id is not None
                calls[piece.index] = (piece.name, "")
            name, arguments = calls[piece.index]
            calls[piece.index] = (name, arguments + piece.arguments)
    return said, list(calls.values())


def read(reader: Reader, text: str, cuts: list[int]) -> tuple[str, list[Call]]:
    said, calls = told(reader, cut(text, cuts))
    assert reader.called == (bool(calls) and not isinstance(reader, OneCall))
    return said, [(name, json.loads(arguments)) for name, arguments in calls]
