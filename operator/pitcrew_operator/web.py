"""Health and metrics over HTTP."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pitcrew_operator.metrics import Metrics


def application(
    metrics: Metrics, problem: Callable[[], str | None], leads: Callable[[], bool]
) -> web.Application:
    """`/healthz` is 503 with the reason while there is a problem; `/metrics` is for Prometheus.

    Whoever waits for the lease is as healthy as whoever holds it; the answer says which it is.
    """

    async def health(_: web.Request) -> web.Response:
        text, role = problem(), "leader" if leads() else "standby"
        return web.Response(status=503 if text else 200, text=text or f"ok: {role}")

    async def scrape(_: web.Request) -> web.Response:
        body = generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", health), web.get("/metrics", scrape)])
    return app


@asynccontextmanager
async def serve(app: web.Application, port: int) -> AsyncIterator[int]:
    """Serve on every interface; yields the port (the one that was found for 0)."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host="0.0.0.0", port=port)  # noqa: S104
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
