"""Between the asyncio world and the engine's thread.

Requests go down through the engine's lock; news comes up by one call of the bell a step
and is sorted here, on the event loop, into the mailboxes of those who wait. Everything in this file
runs on the event loop.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from pitcrew_runtime.core.adapters import Adapter
from pitcrew_runtime.core.engine import StepReport
from pitcrew_runtime.core.request import Finish, Request, Sampling, Update
from pitcrew_runtime.errors import (
    DeadlineExceeded,
    Draining,
    GenerationFailed,
    InvalidRequest,
    NotReady,
    QueueFull,
    RequestError,
)
from pitcrew_runtime.loop import Clock, EngineLoop
from pitcrew_runtime.metrics import Metrics

_PACE_WINDOW = 64
_LONGEST_RETRY = 60
_FAULTS = {
    Finish.ERROR: "the engine failed while it computed this request",
    # Readers who leave drop the request first, so they never see this.
    Finish.CANCELLED: "the server was shut down before the answer was complete; retry",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one choice of an answer is made from; `Request` without the bookkeeping."""

    tokens: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop_tokens: frozenset[int]


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms all prompts of one answer are served."""

    tenant: str = ""
    """Keys and values of a common beginning are shared among equal tenants only."""
    priority: int = 0
    """Lower numbers are admitted earlier."""
    timeout: float | None = None
    """Seconds after which the answer is of no use any more."""
    adapter: Adapter | None = None
    """What the network is changed by."""


STANDARD = Terms()


@dataclass(slots=True)
class _Ticket:
    """One live request."""

    generation: "Generation"
    arrival: float
    first_token: float | None = None
    tokens: int = 0
    dropped: Finish | None = None
    """Why its reader has had enough."""


@dataclass(eq=False)
class Generation:
    """The running answer to some prompts: an async iterator of (index of the prompt, update).

    Ends when every prompt has ended or was dropped. Raises `GenerationFailed` where the engine
    failed one, and `DeadlineExceeded`. `close` it in any case: that cancels what still runs.
    """

    frontend: "Frontend"
    indices: dict[int, int] = field(default_factory=dict)
    reused: dict[int, int] = field(default_factory=dict)
    """By the index of a prompt: how many of its tokens were found in the prefix cache."""
    _mail: deque[Update] = field(default_factory=deque)
    _rings: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Update]]:
        while self.indices:
            while not self._mail:
                self._rings.clear()
                await self._rings.wait()
            update = self._mail.popleft()
            index = self.indices.get(update.request_id)
            if index is None:
                continue
            if update.finish is Finish.TIMEOUT:
                raise DeadlineExceeded("the answer was not complete within its timeout")
            if update.finish in _FAULTS:
                raise GenerationFailed(_FAULTS[update.finish])
            if update.finish is not None:
                del self.indices[update.request_id]
            yield index, update

    @property
    def has_more(self) -> bool:
        """Whether the next update is there already."""
        return any(update.request_id in self.indices for update in self._mail)

    def put(self, update: Update) -> None:
        """Deliver news."""
        self._mail.append(update)
        self._rings.set()

    def reuse(self, request_id: int, tokens: int) -> None:
        """Note how much of a prompt was found."""
        if (index := self.indices.get(request_id)) is not None:
            self.reused[index] = tokens

    def cached_tokens(self, each: int) -> int:
        """Of all prompts, where each is that of so many choices and is counted once."""
        return sum(tokens for index, tokens in self.reused.items() if index % each == 0)

    def drop(self, index: int, reason: Finish = Finish.CANCELLED) -> None:
        """Cancel one prompt: nothing more comes of it. `reason` is what the metrics count."""
        for request_id in [key for key, value in self.indices.items() if value == index]:
            del self.indices[request_id]
            self.frontend.cancel(request_id, reason)

    def close(self) -> None:
        """Cancel all that has not ended."""
        for index in list(self.indices.values()):
            self.drop(index)


class Frontend:
    """Submits, sorts the news, counts, and drains."""

    def __init__(self, loop: EngineLoop, metrics: Metrics, clock: Clock) -> None:
        self._loop = loop
        self._metrics = metrics
        self._clock = clock
        self._tickets: dict[int, _Ticket] = {}
        self._ids = count(1)
        self._ends: deque[float] = deque(maxlen=_PACE_WINDOW)
        self._emptied = asyncio.Event()
        self._emptied.set()
        self.leaving = False
        """Told to stop: not ready for new clients, but requests are still taken."""
        self.draining = False
        self.ready = False

    @property
    def active(self) -> int:
        """Requests that have not ended."""
        return len(self._tickets)

    def check_room(self) -> None:
        """Raises what `start` would for any prompt: asked before work is put into one.

        Under overload, most of the work would be for requests that are refused.
        """
        if trouble := self.trouble():
            raise trouble
        engine = self._loop.engine
        if (waiting := engine.gauges().waiting) >= engine.limits.max_waiting:
            raise self._full(f"{waiting} requests are waiting already; retry later")

    def start(self, prompts: Sequence[Prompt], terms: Terms = STANDARD) -> Generation:
        """Submit all prompts or none. Raises `NotReady`, `Draining`, `QueueFull`, `InvalidRequest`."""
        if trouble := self.trouble():
            raise trouble
        room = self._loop.engine.limits.max_waiting
        if len(prompts) > room:
            raise InvalidRequest(
                f"n: {len(prompts)} sequences at once are more than may wait here ({room}); send "
                "fewer prompts or choices",
                param="n",
            )
        requests = self._requests(prompts, terms)
        try:
            self._loop.submit(*requests)
        except QueueFull as full:
            raise self._full(str(full)) from None
        return self._accept(requests)

    def cancel(self, request_id: int, reason: Finish = Finish.CANCELLED) -> None:
        """End a request within a step."""
        if request_id in self._tickets:
            self._tickets[request_id].dropped = reason
        self._loop.cancel(request_id)

    def deliver(self, report: StepReport, now: float) -> None:
        """The news of one step, which ended at `now`."""
        self._metrics.step(report)
        for request_id, tokens in report.reused:
            if (ticket := self._tickets.get(request_id)) is not None:
                ticket.generation.reuse(request_id, tokens)
        generated = 0
        for update in report.updates:
            ticket = self._tickets.get(update.request_id)
            if ticket is not None:
                generated += update.sampled is not None
                self._count(ticket, update, now)
                ticket.generation.put(update)
        self._metrics.generation_tokens.inc(generated)

    def abandon(self, why: Finish = Finish.ERROR) -> None:
        """The engine will not step again: fail everybody."""
        for request_id in list(self._tickets):
            self._tickets[request_id].generation.put(Update(request_id, None, why))
            self._end(request_id, why)

    async def drain(self, seconds: float, last_step_seconds: float = 5.0) -> bool:
        """Take nothing new and wait for what runs; after `seconds` cancel it. True: all finished.

        A step that is under way may then take `last_step_seconds`; if it hangs, nobody waits on.
        """
        self.leaving = self.draining = True
        if await self._empty_within(seconds):
            return True
        for request_id in list(self._tickets):
            self.cancel(request_id)
        if not await self._empty_within(last_step_seconds):
            self.abandon(Finish.CANCELLED)
        return False

    async def _empty_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._emptied.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def trouble(self) -> RequestError | None:
        """Why nothing would be taken now."""
        if self.draining:
            return Draining("this server is shutting down; retry, another one will answer")
        trouble = self._loop.trouble()
        if trouble is not None:
            return NotReady(trouble)
        if not self.ready:
            return NotReady("the engine is warming up; wait for /health/ready")
        return None

    def _requests(self, prompts: Sequence[Prompt], terms: Terms) -> list[Request]:
        """One for each prompt; equal ones fork from the first of them."""
        requests: list[Request] = []
        firsts: dict[tuple[int, ...], int] = {}
        tokens, first = None, None
        for prompt in prompts:
            if prompt.tokens is not tokens:  # the choices of one have its tokens in common
                tokens, first = prompt.tokens, firsts.get(prompt.tokens)
            requests.append(self._request(prompt, terms, first))
            if first is None:
                first = firsts[prompt.tokens] = requests[-1].id
        return requests

    def _request(self, prompt: Prompt, terms: Terms, fork_of: int | None) -> Request:
        now = self._clock()
        return Request(
            next(self._ids),
            prompt.tokens,
            prompt.max_tokens,
            now,
            prompt.sampling,
            prompt.stop_tokens,
            terms.adapter,
            tenant=terms.tenant,
            priority=terms.priority,
            deadline=None if terms.timeout is None else now + terms.timeout,
            fork_of=fork_of,
        )

    def _accept(self, requests: Sequence[Request]) -> Generation:
        """Follow what was submitted. Its news comes to this thread, so none has come yet."""
        generation = Generation(self, {one.id: index for index, one in enumerate(requests)})
        for request in requests:
            self._tickets[request.id] = _Ticket(generation, request.arrival)
            self._metrics.prompt_tokens.inc(len(request.prompt))
        self._emptied.clear()
        return generation

    def _count(self, ticket: _Ticket, update: Update, now: float) -> None:
        if update.sampled is not None:
            ticket.tokens += 1
            if ticket.first_token is None:
                ticket.first_token = now
                self._metrics.first_token.observe(now - ticket.arrival)
        if update.finish is not None:
            finish = ticket.dropped or update.finish
            self._measure(ticket, now, finish)
            self._end(update.request_id, finish)

    def _measure(self, ticket: _Ticket, now: float, finish: Finish) -> None:
        self._metrics.duration.observe(now - ticket.arrival)
        # OpenTelemetry's meaning: of successful answers.
        succeeded = finish in (Finish.STOP, Finish.LENGTH)
        if succeeded and ticket.first_token is not None and ticket.tokens > 1:
            self._metrics.output_token.observe((now - ticket.first_token) / (ticket.tokens - 1))
        self._ends.append(now)

    def _end(self, request_id: int, finish: Finish) -> None:
        del self._tickets[request_id]
        self._metrics.finished.labels(finish.value).inc()
        if not self._tickets:
            self._emptied.set()

    def _full(self, why: str) -> QueueFull:
        return QueueFull(why, retry_after=self._retry_after())

    def _retry_after(self) -> int:
        """Seconds until the queue, at the pace of the last requests, should have moved on."""
        if len(self._ends) < 2 or (span := self._clock() - self._ends[0]) <= 0:
            return 1
        pace = len(self._ends) / span
        waiting = self._loop.engine.gauges().waiting
        return max(1, min(_LONGEST_RETRY, math.ceil(waiting / pace)))
