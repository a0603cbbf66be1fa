"""Between the operator and the API server: counts requests, and may cut after a write.

A write that is cut has been done; its answer never arrives. So the operator is gone between this write
and the next one, without knowing whether it took place.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from devcluster.controlplane import ControlPlane
from tests.controlplane.api import tls

Cut = Callable[[int], Awaitable[bool]]
_HOP = frozenset({"connection", "content-length", "host", "transfer-encoding", "keep-alive"})


class Proxy:
    """Plain HTTP on 127.0.0.1; the administrator's TLS behind it.

    `cut` is asked with the number of each write, from 1, once the write is done; where it answers
    True, whoever sent it is gone.
    """

    def __init__(self, plane: ControlPlane, cut: Cut | None = None) -> None:
        self._base, self._tls = f"https://127.0.0.1:{plane.port}", tls(plane)
        self.cut = cut
        self.writes = 0
        self.life = 0
        """Number of the process that sends now; what an earlier one sent last needs no answer."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """By verb and resource; watches are a verb of their own."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            ssl=self._tls, limit=0, enable_cleanup_closed=NEEDS_CLEANUP_CLOSED
        )
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, read_bufsize=2**21
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        life = self.life
        is_watch = request.query.get("watch") == "true"
        verb = "WATCH" if is_watch else request.method
        self.requests[verb, _resource(request.path)] += 1
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        body = await request.read()
        async with self._session.request(
            request.method, self._base + request.path_qs, data=body or None, headers=headers
        ) as answer:
            if is_watch:
                return await _stream(request, answer)
            content = await answer.read()
        if request.method != "GET":
            self.writes += 1
            is_cut = life != self.life or (self.cut and await self.cut(self.writes))
            if is_cut and request.transport is not None:
                request.transport.abort()
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        return web.Response(status=answer.status, body=content, headers=kept)


async def _stream(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
    response = web.StreamResponse(status=answer.status, headers=kept)
    try:
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientError, ConnectionError):
        pass
    return response


def _resource(path: str) -> str:
    """`jobs` of /apis/batch/v1/namespaces/a/jobs/b, `jobs/status` of its subresource."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return "/".join(parts[:1] + parts[2:3]) or "discovery"
