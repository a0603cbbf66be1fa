"""The state of one request inside the scheduler."""

from dataclasses import dataclass, field

from pitcrew_runtime.core.adapters import NO_ADAPTER
from pitcrew_runtime.core.request import Finish, Request, Sampled


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and how far it has come.

    `tokens` is the prompt and everything generated; the keys and values of the first `computed` of
    them are in pages. A preempted sequence keeps its tokens and computes them again.
    """

    request: Request
    serial: int
    """Order of arrival."""
    tokens: list[int] = field(default_factory=list)
    computed: int = 0
    started: bool = False
    """Some of it was computed once: it waits ahead of those that never ran."""
    slot: int = NO_ADAPTER
    """Of its adapter, pinned while it runs."""

    def __post_init__(self) -> None:
        self.tokens.extend(self.request.prompt)

    @property
    def id(self) -> int:
        """The request's id: the owner of its pages."""
        return self.request.id

    @property
    def remaining(self) -> int:
        """Tokens known but not computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    def accept(self, sampled: Sampled) -> Finish | None:
        """Append a token; the reason to end, if it is the last."""
        self.tokens.append(sampled.token)
        if sampled.token in self.request.stop_tokens:
            return Finish.STOP
        if len(self.tokens) - len(self.request.prompt) >= self.request.max_tokens:
            return Finish.LENGTH
        return None
