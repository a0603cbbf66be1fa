"""What a caller wants of the engine: frozen, in token ids, decided in every detail."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.core.guide import Guide

_COLDEST = 1e-6
"""Colder is greedy: the division by the temperature would only overflow."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one sequence picks its tokens.

    The random number of a token depends on `seed` and the token's position only, so a sequence
    draws the same tokens alone, in any batch and after a preemption.
    """

    temperature: float = 0.0
    """0 is greedy: the largest logit, the lowest id among equals."""
    top_k: int = 0
    """Keep the k best; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of best tokens whose probability reaches this."""
    min_p: float = 0.0
    """Keep tokens that are at least this much as probable as the best."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that was generated."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit as many times as it was generated."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens in prompt or output, and multiplies the negative ones
    (Keskar et al. 2019, CTRL)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)."""
    min_tokens: int = 0
    """Before so many are generated, none of `withheld` is picked."""
    withheld: tuple[int, ...] = ()
    guide: Guide | None = None
    """Which tokens may follow at all. A sequence's own: no other may use it."""
    seed: int = 0
    logprobs: int | None = None
    """None: none wanted. Else the token's own and that many of the best alternatives."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens, each given those before it; the first has none."""

    @property
    def is_greedy(self) -> bool:
        """The best token is taken."""
        return self.temperature < _COLDEST

    @property
    def is_plain(self) -> bool:
        """Nothing but the best logit is asked for."""
        return self.is_greedy and self.logprobs is None and not self.shapes_logits

    @property
    def shapes_logits(self) -> bool:
        """Whether logits are changed before a token is picked from them."""
        return bool(self.penalizes or self.logit_bias or self.min_tokens or self.guide)

    @property
    def penalizes(self) -> bool:
        """Whether a token's logit depends on how often it stands in the text already."""
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to continue."""

    id: int
    """Unique among live requests."""
    prompt: tuple[int, ...]
    max_tokens: int
    """0: the prompt is computed and nothing generated."""
    arrival: float
    """Seconds, on the clock whose readings `Engine.step` is given."""
    sampling: Sampling = GREEDY
    stop_tokens: frozenset[int] = frozenset()
    """Ending tokens: the model's own (unless they are to be ignored) and the caller's."""
    adapter: Adapter | None = None
    """What the network is changed by. Its identity decides keys and values as the tokens do."""
    tenant: str = ""
    """Pages with a common beginning are shared among the requests of one tenant only."""
    priority: int = 0
    """Lower numbers are admitted earlier and preempted later."""
    deadline: float | None = None
    """When the answer is of no use any more, on the clock of `arrival`."""
    fork_of: int | None = None
    """Another request, submitted before, with the same prompt, adapter and tenant: this one starts
    from that one's pages instead of computing the prompt again."""

    def begins_like(self, other: "Request") -> bool:
        """The keys and values of both prompts are the same, and the two may share them."""
        return (self.prompt, self.adapter, self.tenant) == (
            other.prompt,
            other.adapter,
            other.tenant,
        )


class Finish(StrEnum):
    """Why a request ended. Each request ends exactly once."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    """Its deadline passed."""
    ERROR = "error"


class Sampled(NamedTuple):
    """One chosen token; log probabilities are of the untempered distribution.

    A tuple, as the other things are that every row of every step makes: quick to make.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """The best (token, log probability) pairs, best first."""


Scores = tuple[Sampled, ...]
"""Tokens of a prompt with their log probabilities, in the prompt's order."""


class Update(NamedTuple):
    """News of one request: a token, its end, scores of its prompt, or several of these."""

    request_id: int
    sampled: Sampled | None = None
    finish: Finish | None = None
    scores: Scores = ()
    """The next so many of the prompt's tokens, from the second on."""


news: Callable[[tuple[int, Sampled | None, Finish | None, Scores]], Update] = partial(
    tuple.__new__, Update
)
"""An `Update` of a tuple of its fields, in half the time that its own constructor takes: every row
of every step makes one."""
