"""One choice of an answer: tokens in, certain text and calls out."""

from collections.abc import Sequence
from dataclasses import dataclass

from pitcrew_runtime.core.guide import Guide
from pitcrew_runtime.core.request import Finish, Sampled, Update
from pitcrew_runtime.errors import InvalidRequest
from pitcrew_runtime.text.calls.piece import CallPiece
from pitcrew_runtime.text.reading import Read, Reader, joined
from pitcrew_runtime.text.stops import StopFinder
from pitcrew_runtime.text.tokenizer import Tokenizer

TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class Delta:
    """What one update adds to a choice."""

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    """Generated."""
    sampled: tuple[Sampled, ...] = ()
    """Those of them that stand in the text: all but those that end it."""
    scores: tuple[Sampled, ...] = ()
    """Tokens of an echoed prompt, before all others."""
    finish: str | None = None
    """OpenAI's finish reason, in the last delta of a choice."""
    calls: tuple[CallPiece, ...] = ()
    reasoning: str = ""
    """Thoughts before the text."""


@dataclass(frozen=True, slots=True)
class Echo:
    """The prompt, where an answer begins with it."""

    text: str = ""
    scores: tuple[Sampled, ...] = ()
    """Its first token, which has no log probability, where those of the others will come."""


NO_ECHO = Echo()


@dataclass(frozen=True, slots=True)
class Ending:
    """What a choice's text is searched for."""

    stops: Sequence[str] = ()
    shown: bool = False
    """The stop string itself belongs to the text."""
    min_tokens: int = 0
    """Nothing ends the text before so many tokens."""


class Choice:
    """Detokenizes one sequence, ends it at a stop string and finds its thoughts and calls.

    `tokenizer` is None for an engine without one: its choices have token ids and no text. An echoed
    prompt comes before the text and is not searched for stop strings.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer | None,
        ending: Ending,
        echo: Echo = NO_ECHO,
        guide: Guide | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.index = index
        self._echo = echo
        self._guide = guide
        self._reader = reader or Reader()
        self.tokens = 0
        """Generated so far, the ones that end the text included."""
        self._detokenizer = tokenizer.detokenizer() if tokenizer else None
        self._min_tokens = ending.min_tokens
        self._stops = StopFinder(ending.stops, ending.shown)

    def feed(self, update: Update) -> Delta:
        """Take an update; a `finish` of "stop" without one in the update asks to drop the rest.

        Raises `InvalidRequest` where the text could not be held to its constraint to the end.
        """
        sampled = (update.sampled,) if update.sampled is not None else ()
        self.tokens += len(sampled)
        shown = () if update.finish is Finish.STOP else sampled
        reads = [self._read(one.token) for one in shown]
        if update.finish is not None and not self._stops.found:
            self._check_guide()
            reads.append(self._reader.feed(self._rest()))
        finish = Finish.STOP.value if self._stops.found else update.finish
        if finish is not None:
            reads.append(self._reader.flush())
        if finish == Finish.STOP and self._reader.called:
            finish = TOOL_CALLS
        read = joined(reads)
        echo, self._echo = self._echo, NO_ECHO
        return Delta(
            self.index,
            echo.text + read.text,
            tuple(one.token for one in sampled),
            shown,
            echo.scores + update.scores,
            finish,
            read.calls,
            read.reasoning,
        )

    def _read(self, token: int) -> Read:
        """What a token adds; a mark is no text, and nothing before it waits for what follows."""
        if token in self._reader.marks:
            return joined((self._reader.feed(self._rest()), self._reader.mark(token)))
        return self._reader.feed(self._text(token))

    def _text(self, token: int) -> str:
        if self._detokenizer is None:
            return ""
        text = self._detokenizer.push(token)
        return self._stops.feed(text) if self.tokens > self._min_tokens else text

    def _rest(self) -> str:
        """At the end of the tokens: half characters and half stop strings are text after all."""
        if self._detokenizer is None:
            return ""
        text = self._stops.feed(self._detokenizer.flush())
        return text if self._stops.found else text + self._stops.flush()

    def _check_guide(self) -> None:
        if self._guide is not None and self._guide.fault is not None:
            raise InvalidRequest(self._guide.fault)
