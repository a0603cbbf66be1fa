"""Turns tokens into text as they come.

A token may end in the middle of a character, and some decoders treat the first token of a text
differently. So a window of recent tokens is decoded, and text is given out only where it can no
longer change: the pieces, joined, are exactly the text of all tokens. The window is bounded, so
each token costs the same.
"""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_PATIENCE = 5
"""A character has at most four bytes; with more tokens open, some of them are simply invalid."""


class Detokenizer:
    """One sequence's text. `decode` turns token ids into text and must not clean it up."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        # The last tokens that were given out stand before the open ones, as their context.
        self._context: list[int] = []
        self._context_text = ""
        self._open: list[int] = []

    def push(self, token: int) -> str:
        """Add a token; the text that is now certain, which may be empty."""
        self._open.append(token)
        text = self._decode(self._context + self._open)
        if not text.endswith(_BROKEN):
            return self._release(len(self._open), text)
        if len(self._open) > _PATIENCE:
            return self._release_invalid(text)
        return ""

    def flush(self) -> str:
        """The end: what is still open, with a replacement character for half a character."""
        return self._release(len(self._open), self._decode(self._context + self._open))

    def _release(self, count: int, text: str) -> str:
        """Give out the first `count` open tokens, whose text, with its context, is `text`."""
        piece = self._beyond_context(text, count)
        if not piece and count == len(self._open):
            # Nothing to see (a special token, say): it may still be context for the next.
            self._context = (self._context + self._open)[-2 * _PATIENCE :]
            self._context_text = self._decode(self._context)
            self._open = []
            return ""
        self._context, self._open = self._open[:count], self._open[count:]
        self._context_text = self._decode(self._context)
        return piece

    def _beyond_context(self, text: str, count: int) -> str:
        if text.startswith(self._context_text):
            return text[len(self._context_text) :]
        # Byte-fallback decoders judge a run of bytes as a whole: an incomplete end spoils what
        # was sound before it. That has been given out already, so the rest stands alone.
        return self._decode(self._open[:count])

    def _release_invalid(self, text: str) -> str:
        """Give out all that lies before a boundary which no later token can move."""
        for count in range(len(self._open) - 1, 0, -1):
            head = self._decode(self._context + self._open[:count])
            if head + self._decode(self._open[count:]) == text:
                return self._release(count, head)
        return ""
