"""One choice of an answer: tokens in, certain text out."""

from collections.abc import Sequence
from dataclasses import dataclass

from pitcrew_runtime.core.request import Finish, Sampled, Update
from pitcrew_runtime.text.stops import StopFinder
from pitcrew_runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What one update adds to a choice."""

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    sampled: tuple[Sampled, ...] = ()
    """The tokens that stand in the text: all but those that end it."""
    finish: str | None = None
    """OpenAI's finish reason, in the last delta of a choice."""


class Choice:
    """Detokenizes one sequence and ends it at a stop string.

    `tokenizer` is None for an engine without one: its choices have token ids and no text. `prefix`
    is an echoed prompt: it comes before the text and is not searched for stop strings.
    """

    def __init__(
        self, index: int, tokenizer: Tokenizer | None, stops: Sequence[str], prefix: str = ""
    ) -> None:
        self.index = index
        self._prefix = prefix
        self.tokens = 0
        """Generated so far, the ones that end the text included."""
        self._detokenizer = tokenizer.detokenizer() if tokenizer else None
        self._stops = StopFinder(stops)

    def feed(self, update: Update) -> Delta:
        """Take an update; a `finish` of "stop" without one in the update asks to drop the rest."""
        sampled = (update.sampled,) if update.sampled is not None else ()
        self.tokens += len(sampled)
        shown = () if update.finish is Finish.STOP else sampled
        text = "".join(self._text(one.token) for one in shown)
        if update.finish is not None and not self._stops.found:
            text += self._rest()
        prefix, self._prefix = self._prefix, ""
        return Delta(
            self.index,
            prefix + text,
            tuple(one.token for one in sampled),
            shown,
            Finish.STOP.value if self._stops.found else update.finish,
        )

    def _text(self, token: int) -> str:
        return self._stops.feed(self._detokenizer.push(token)) if self._detokenizer else ""

    def _rest(self) -> str:
        """At the end of the tokens: half characters and half stop strings are text after all."""
        if self._detokenizer is None:
            return ""
        text = self._stops.feed(self._detokenizer.flush())
        return text if self._stops.found else text + self._stops.flush()
