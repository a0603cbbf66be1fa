"""A compiled grammar that follows one sequence: `core.guide.Guide` by llguidance."""

import re
import time
from collections.abc import Callable, Collection, Sequence

from llguidance import LLMatcher

_GIVEN_UP = "the constraint became too complex to follow: "
_SECONDS_EACH = 0.008
"""Of the processor, for the tokens that may follow: six times what wide grammars of 128,000 tokens take."""
_SECONDS_AHEAD = 0.25
"""That may be taken at once, where less was needed before."""
_PICTURE = re.compile(r"[\^| ]*$|\d+ \||<non-verbose/>")


class GrammarGuide:
    """Says which tokens the grammar allows after those of one sequence.

    The matcher holds the state after `_told`; a continuation that differs from it is reached by
    rolling back. Tokens that the grammar does not allow (drafts, say) are not followed.

    Everybody waits for a guide. What an ambiguous grammar takes grows with its text, which the fuel of
    a single step does not bound: it is given up where it goes on to take too long, by `clock`, which
    shows seconds of the processor.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        ends: Collection[int],
        vocabulary: int,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._matcher = matcher
        self._clock = clock
        self._credit = _SECONDS_AHEAD
        self._told: list[int] = []
        self._ends = _bits(ends, vocabulary)
        self._fault: str | None = None

    @property
    def fault(self) -> str | None:
        """Why the grammar was given up; None while it holds."""
        return self._fault

    def allowed(self, generated: Sequence[int]) -> bytes:
        """See `Guide`."""
        begin = self._clock()
        mask = self._mask(generated) if self._fault is None else self._ends
        self._credit = min(self._credit + _SECONDS_EACH, _SECONDS_AHEAD) - (self._clock() - begin)
        if self._credit < 0 and self._fault is None:
            self._fault = (
                f"{_GIVEN_UP}it takes more than {_SECONDS_EACH * 1000:g} ms for each token; make it "
                "less ambiguous"
            )
        return mask if self._fault is None else self._ends

    def _mask(self, generated: Sequence[int]) -> bytes:
        if not self._follow(list(generated)):
            return self._ends
        mask: bytes = self._matcher.compute_bitmask()
        return self._ends if self._failed() else mask

    def _follow(self, generated: list[int]) -> bool:
        """Bring the matcher there; False where the grammar does not lead there."""
        common = _common(self._told, generated)
        if common < len(self._told):
            self._matcher.rollback(len(self._told) - common)
            del self._told[common:]
        rest = generated[common:]
        if rest:
            count = self._matcher.try_consume_tokens(rest)
            self._told += rest[:count]
            if count < len(rest):
                self._failed()
                return False
        return not self._failed()

    def _failed(self) -> bool:
        if self._matcher.is_error():
            self._fault = _GIVEN_UP + in_words(self._matcher.get_error())
        return self._fault is not None


def in_words(fault: str) -> str:
    """What the library says, on one line and without the pictures that it draws."""
    lines = (line.strip() for line in fault.splitlines())
    return " ".join(line for line in lines if not _PICTURE.match(line))[:300]


def _common(one: list[int], other: list[int]) -> int:
    """Length of the common start."""
    if one == other[: len(one)]:
        return len(one)
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _bits(tokens: Collection[int], vocabulary: int) -> bytes:
    packed = bytearray(-(-vocabulary // 8))
    for token in tokens:
        packed[token >> 3] |= 1 << (token & 7)
    return bytes(packed)
