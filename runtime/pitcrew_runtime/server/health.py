"""What Kubernetes and Prometheus ask for."""

from dataclasses import dataclass

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from pitcrew_builder import __version__
from pitcrew_builder.manifest import Manifest
from pitcrew_runtime import metrics
from pitcrew_runtime.frontend import Frontend
from pitcrew_runtime.loop import EngineLoop
from pitcrew_runtime.server.problems import json_response, unavailable


@dataclass(frozen=True, slots=True)
class Health:
    """Liveness, readiness, metrics and version of one server."""

    loop: EngineLoop
    frontend: Frontend
    metrics: metrics.Metrics
    manifest: Manifest

    def routes(self) -> list[Route]:
        """The endpoints outside of `/v1`."""
        return [
            Route("/health/live", self.live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.scrape, methods=["GET"]),
            Route("/version", self.version, methods=["GET"]),
        ]

    async def live(self, http: HttpRequest) -> Response:
        """503 where only a new process can help."""
        return verdict(self.loop.trouble())

    async def ready(self, http: HttpRequest) -> Response:
        """503 until the warm-up is over, from the moment it is told to leave, and where the engine is not alive."""
        if self.frontend.leaving:
            return verdict("draining")
        if not self.frontend.ready:
            return verdict(self.loop.trouble() or "warming up")
        return verdict(self.loop.trouble())

    async def scrape(self, http: HttpRequest) -> Response:
        """Prometheus text."""
        return Response(self.metrics.render(), media_type=metrics.CONTENT_TYPE)

    async def version(self, http: HttpRequest) -> Response:
        """What runs here."""
        return json_response(
            {
                "version": __version__,
                "engine": self.manifest.tag,
                "engineId": self.manifest.engine_id,
                "kvDtype": self.manifest.ranks[0].kv_dtype,
                "toolchain": self.manifest.identity.toolchain,
            }
        )


def verdict(reason: str | None) -> Response:
    """The answer to a probe; `reason` is what is wrong."""
    return json_response({"status": "ok"}) if reason is None else unavailable(reason)
