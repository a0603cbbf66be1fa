"""Turns a running generation into an HTTP answer: whole, or as server-sent events.

Both ways feed the same deltas, so a stream's pieces joined are the whole answer. A client that
goes away closes the generation, which frees its pages within a step.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import orjson
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pitcrew_runtime.core.request import Finish
from pitcrew_runtime.errors import RequestError
from pitcrew_runtime.frontend import Generation
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.choice import Choice, Delta
from pitcrew_runtime.server.contest import NO_CONTEST, Contest
from pitcrew_runtime.server.formats import Format, Json, Usage
from pitcrew_runtime.server.schemas import StreamOptions
from pitcrew_runtime.text.calls.piece import CallPiece

T = TypeVar("T")

_LONGEST_WRITE = 1 << 14
DONE = b"data: [DONE]\n\n"
_SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Answer:
    """One request on its way out."""

    def __init__(
        self,
        generation: Generation,
        choices: list[Choice],
        form: Format,
        prompt_tokens: int,
        contest: Contest = NO_CONTEST,
    ) -> None:
        self._generation = generation
        self._choices = choices
        self._format = form
        self._prompt_tokens = prompt_tokens
        self._contest = contest

    async def whole(self, http: HttpRequest) -> Response:
        """Wait for everything; stops early where the client has gone."""
        try:
            found = await or_disconnect(http, self._gather())
            if found is None:
                return problems.client_closed()
            return problems.json_response(
                self._format.whole(self._contest.best(found), self._usage())
            )
        finally:
            self._generation.close()

    def streamed(self, options: StreamOptions) -> Response:
        """Server-sent events, one for each token that shows."""
        return EventStream(self._events(options), self._close)

    async def _gather(self) -> list[Delta]:
        found: list[list[Delta]] = [[] for _ in self._choices]
        async for delta in deltas(self._generation, self._choices):
            found[delta.index].append(delta)
        return [joined(index, pieces) for index, pieces in enumerate(found)]

    async def _events(self, options: StreamOptions) -> AsyncIterator[bytes]:
        extra: Json = {"usage": None} if options.include_usage else {}
        continuous = options.include_usage and options.continuous_usage_stats
        ready = bytearray()
        try:
            for opening in self._format.opening(len(self._choices)):
                yield _event({**opening, **extra})
            async for delta in deltas(self._generation, self._choices):
                if _says(delta) or self._says_more(delta):
                    if continuous:
                        extra = {"usage": self._usage().json()}
                    ready += _event({**self._format.chunk(delta), **extra})
                # An event goes out at once; where the engine is ahead, several go out together.
                if ready and (not self._generation.has_more or len(ready) > _LONGEST_WRITE):
                    yield bytes(ready)
                    ready.clear()
            if options.include_usage:
                yield _event(self._format.closing(self._usage()))
        except RequestError as error:
            yield bytes(ready) + _event(problems.body(error))
        yield DONE

    async def _close(self) -> None:
        self._generation.close()

    def _says_more(self, delta: Delta) -> bool:
        """Whether a delta without text still has something that was asked for."""
        envelope = self._format.envelope
        return bool(
            (envelope.logprobs and (delta.scores or delta.sampled))
            or (envelope.token_ids and delta.token_ids)
        )

    def _usage(self) -> Usage:
        return Usage(
            self._prompt_tokens,
            sum(choice.tokens for choice in self._choices),
            self._generation.cached_tokens(self._contest.candidates),
        )


class EventStream(StreamingResponse):
    """A stream that lets go of its generation however it ends, even before it began."""

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_SSE_HEADERS)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()


async def deltas(generation: Generation, choices: Sequence[Choice]) -> AsyncIterator[Delta]:
    """What each update adds to its choice; a choice that ends by its text is computed no further."""
    async for index, update in generation:
        delta = choices[index].feed(update)
        if delta.finish is not None and update.finish is None:
            generation.drop(index, Finish.STOP)
        yield delta


def joined(index: int, pieces: Sequence[Delta]) -> Delta:
    """All deltas of one choice as one."""
    return Delta(
        index,
        "".join(delta.text for delta in pieces),
        tuple(token for delta in pieces for token in delta.token_ids),
        tuple(one for delta in pieces for one in delta.sampled),
        tuple(one for delta in pieces for one in delta.scores),
        pieces[-1].finish if pieces else None,
        _whole_calls(piece for delta in pieces for piece in delta.calls),
        "".join(delta.reasoning for delta in pieces),
    )


def _says(delta: Delta) -> bool:
    return bool(delta.text or delta.finish or delta.calls or delta.reasoning)


def _whole_calls(pieces: Iterable[CallPiece]) -> tuple[CallPiece, ...]:
    """The parts of each call as one."""
    calls: dict[int, CallPiece] = {}
    for piece in pieces:
        begun = calls.get(piece.index)
        if begun is not None:
            piece = replace(begun, arguments=begun.arguments + piece.arguments)
        calls[piece.index] = piece
    return tuple(calls.values())


def _event(document: Json) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


async def or_disconnect(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, and the work cancelled, where the client leaves before it is done."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(http))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(http: HttpRequest) -> None:
    """Returns when the client goes away; the body has been read, so nothing else can come."""
    with contextlib.suppress(RuntimeError):
        while (await http.receive())["type"] != "http.disconnect":
            pass
