"""Answers HTTP from the first moment, and hands over once there is an engine to ask.

Loading an engine takes minutes where it is large. A process that does not answer meanwhile looks
dead to its probes; one that does can say what it is doing. One that is about to leave asks its
clients to connect anew, which leads them to another.
"""

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pitcrew_runtime.errors import (
    BodyEncoded,
    HeadersTooLarge,
    InvalidRequest,
    NotReady,
    RequestError,
)
from pitcrew_runtime.server import problems

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32_768
"""Of one request. h11 looks at what it has not understood yet, so what comes in one piece is larger."""
_LENGTHS = frozenset({b"content-length", b"transfer-encoding"})


class Door:
    """An ASGI application before there is one."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        """What the process is doing, for whoever asks why it is not ready."""
        self._app: ASGIApp | None = None
        self._is_closing = False

    def open(self, app: ASGIApp) -> None:
        """Hand everything over to `app`."""
        self._app = app

    def close(self) -> None:
        """From here on every answer is the last one of its connection."""
        self._is_closing = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._answer(scope, receive, last if self._is_closing else send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Before there is an engine: alive, and not ready for anything else."""
        if (fault := _fault(scope)) is not None:
            await _refusal(fault)(scope, receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["path"] == "/health/live":
            await problems.json_response({"status": "ok"})(scope, receive, send)
        elif scope["path"] == "/health/ready":
            await problems.unavailable(self.stage)(scope, receive, send)
        else:
            error = NotReady(f"the server is {self.stage}; wait for /health/ready")
            await problems.response(error)(scope, receive, send)


def _refusal(fault: RequestError) -> Response:
    """A body that is only not understood is left to come: closing before would lose the answer."""
    response = problems.response(fault)
    if not isinstance(fault, BodyEncoded):
        response.headers["Connection"] = "close"
    return response


def _fault(scope: Scope) -> RequestError | None:
    """What is wrong with a request, whatever it asks for."""
    headers = scope["headers"]
    size = len(scope["raw_path"]) + len(scope["query_string"])
    size += sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        return HeadersTooLarge(
            f"a request may have {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes in all; send "
            "fewer"
        )
    if {name for name, _ in headers} >= _LENGTHS:
        # RFC 9112, 6.1: a proxy that goes by the other one sees another request behind this one.
        return InvalidRequest("the body has a Content-Length and a Transfer-Encoding; send one")
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            return BodyEncoded(
                f"Content-Encoding: {value.decode('latin-1')[:32]!r} is not understood here; send the "
                "body as it is"
            )
    return None
