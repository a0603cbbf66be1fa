"""The state of one request inside the scheduler."""

from enum import Enum, auto

from pitcrew_runtime.core.adapters import NO_ADAPTER
from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.prefix import KeyChain
from pitcrew_runtime.core.request import Finish, Request


class State(Enum):
    """Where a sequence is."""

    WAITING = auto()
    """In the waiting room, without pages."""
    HELD = auto()
    """Until the sequence that it forks from has computed their prompt."""
    PREFILLING = auto()
    DECODING = auto()
    ENDED = auto()


NO_ROW = Row(-1, (), 0, (), None)


class Sequence:
    """A request and how far it has come.

    `tokens` is the prompt and everything generated; the keys and values of the first `computed` of
    them are in pages. A preempted sequence keeps its tokens and computes them again.
    """

    __slots__ = (
        "capacity",
        "chain",
        "computed",
        "id",
        "long",
        "longest",
        "parent",
        "published",
        "request",
        "row",
        "scored",
        "serial",
        "slot",
        "started",
        "state",
        "stop_tokens",
        "tokens",
        "turn",
    )

    def __init__(self, request: Request, serial: int, chain: KeyChain) -> None:
        self.request = request
        self.serial = serial
        """Order of arrival."""
        self.chain = chain
        self.id = request.id
        """The owner of its pages."""
        self.stop_tokens = request.stop_tokens
        self.tokens = list(request.prompt)
        self.longest = len(request.prompt) + request.max_tokens
        self.long = False
        """It has outgrown short texts: see `Limits.short_length`."""
        self.state = State.WAITING
        self.parent: Sequence | None = None
        """Has computed the same prompt: while it runs, its pages can be shared."""
        self.started = False
        """Some of it was computed once: it waits ahead of those that never ran."""
        self.slot = NO_ADAPTER
        """Of its adapter, pinned while it runs."""
        self.turn = 0
        """Order of admission, while it runs."""
        self.computed = 0
        self.capacity = 0
        """Tokens that its pages have room for."""
        self.published = 0
        """Its first so many pages can be found by others."""
        wanted = request.sampling.prompt_logprobs is not None
        self.scored = 1 if wanted else len(request.prompt)
        """Its first so many tokens need no log probability, or have been given it."""
        self.row = NO_ROW
        """While it decodes: the row that it has in every step."""

    def outgrow(self) -> None:
        """Be a long text from here on, of which nothing is computed."""
        self.long = True
        self.chain = self.chain.apart()
        # Who keeps what was computed beside the pages knows a sequence by this list.
        self.tokens = list(self.tokens)

    def follow(self, parent: "Sequence") -> None:
        """Begin with what `parent` has computed of their common prompt, or with the keys at least."""
        self.parent = parent
        self.chain.adopt(parent.chain, len(self.request.prompt))

    @property
    def running(self) -> bool:
        """It has pages."""
        return self.state is State.PREFILLING or self.state is State.DECODING

    @property
    def remaining(self) -> int:
        """Tokens known but not computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def unscored(self) -> bool:
        """Log probabilities of its prompt are still wanted: no page of it may be found instead."""
        return self.scored < len(self.request.prompt)

    @property
    def finish(self) -> Finish | None:
        """Why its last token, one that was generated, is the last."""
        if self.tokens[-1] in self.stop_tokens:
            return Finish.STOP
        return Finish.LENGTH if len(self.tokens) >= self.longest else None
