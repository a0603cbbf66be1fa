"""The ASGI application: routes, keys, and errors in one shape."""

import hmac
import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pitcrew_runtime.errors import RequestError, Unauthorized
from pitcrew_runtime.metrics import Metrics
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.health import Health
from pitcrew_runtime.server.openai import OpenAI

logger = logging.getLogger(__name__)

_Handler = Callable[[HttpRequest, Exception], Awaitable[Response]]


def build_app(openai: OpenAI, health: Health, metrics: Metrics, keys: frozenset[str]) -> ASGIApp:
    """The whole server. With `keys`, everything under `/v1` asks for one."""
    handlers: dict[int | type[Exception], _Handler] = {
        RequestError: _refused,
        HTTPException: _not_found,
        ClientDisconnect: _gone,
        Exception: _crashed,
    }
    app: ASGIApp = Starlette(
        routes=[*openai.routes(), *health.routes()],
        exception_handlers=handlers,
    )
    app = _Keys(app, keys) if keys else app
    return _CountErrors(app, metrics)


class _Keys:
    """Asks for `Authorization: Bearer <key>` under `/v1`."""

    def __init__(self, app: ASGIApp, keys: frozenset[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in sorted(keys)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not self._known(given.removeprefix(b"Bearer ").strip()):
                error = Unauthorized("send a valid API key as `Authorization: Bearer <key>`")
                await problems.response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, given: bytes) -> bool:
        """Every key is compared, each in constant time: nothing is learned from the clock."""
        return sum(hmac.compare_digest(given, key) for key in self._keys) > 0


class _CountErrors:
    """Counts answers of 400 and more by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._refused = metrics.refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: dict[str, object]) -> None:
            status = message.get("status")
            # Probes are red while a server warms up or drains; that is no failed request.
            if isinstance(status, int) and status >= 400 and scope["path"].startswith("/v1"):
                self._refused.labels(str(status)).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)  # type: ignore[arg-type]


async def _refused(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return problems.response(error)


async def _not_found(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{http.method} {http.url.path}: {error.detail}"
    return problems.plain(error.status_code, message)


async def _gone(http: HttpRequest, error: Exception) -> Response:
    return Response(status_code=499)


async def _crashed(http: HttpRequest, error: Exception) -> Response:
    logger.error("A request failed", exc_info=error)
    return problems.plain(500, "the server failed; the reason is in its log")
