"""The ASGI application: routes, keys, and errors in one shape."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from pitcrew_runtime.errors import RequestError
from pitcrew_runtime.metrics import Metrics
from pitcrew_runtime.server import problems
from pitcrew_runtime.server.keys import KeyCheck, Keyring
from pitcrew_runtime.server.openapi import PATH

logger = logging.getLogger(__name__)

_Handler = Callable[[HttpRequest, Exception], Awaitable[Response]]
_UNCOUNTED = ("/health/", "/v2/health/")
"""Probes are red while a server warms up or drains; that is no failed request."""


def build_app(routes: Sequence[BaseRoute], metrics: Metrics, keyring: Keyring) -> ASGIApp:
    """The whole server."""
    handlers: dict[int | type[Exception], _Handler] = {
        RequestError: _refused,
        HTTPException: _not_found,
        ClientDisconnect: _gone,
        Exception: _crashed,
    }
    app = Starlette(routes=list(routes), exception_handlers=handlers)
    # It would send clients to whatever host they named, and from a proxy's https to http.
    app.router.redirect_slashes = False
    return _CountErrors(KeyCheck(app, keyring), metrics)


class _CountErrors:
    """Counts answers of 400 and more by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._refused = metrics.refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: dict[str, object]) -> None:
            status = message.get("status")
            if (
                isinstance(status, int)
                and status >= 400
                and not scope["path"].startswith(_UNCOUNTED)
            ):
                self._refused.labels(str(status)).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)  # type: ignore[arg-type]


async def _refused(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return problems.response(error)


async def _not_found(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    asked = f"{http.method[:16]} {http.scope['path'][:256]}"
    if allowed := (error.headers or {}).get("Allow"):
        message = f"{asked}: the method is not allowed here; use {allowed}"
    else:
        message = f"{asked}: {error.detail}; {PATH} tells what is served here"
    return problems.plain(error.status_code, message, error.headers)


async def _gone(http: HttpRequest, error: Exception) -> Response:
    return Response(status_code=499)


async def _crashed(http: HttpRequest, error: Exception) -> Response:
    logger.error("A request failed", exc_info=error)
    return problems.plain(500, "the server failed; the reason is in its log")
