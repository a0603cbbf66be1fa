"""A loaded engine at work: its thread, the news that it sends, and the endpoints that ask it.

The engine's thread tells its news; everything else here runs on the event loop.
"""

import asyncio
import logging
import time
from pathlib import Path

import grpc
from starlette.types import ASGIApp

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.bell import Bell
from pitcrew_runtime.core.engine import Engine, StepReport
from pitcrew_runtime.errors import StartupError
from pitcrew_runtime.frontend import Frontend
from pitcrew_runtime.kserve.http import KServeHttp
from pitcrew_runtime.kserve.rpc import KServeGrpc
from pitcrew_runtime.kserve.service import Service
from pitcrew_runtime.loading import Loaded
from pitcrew_runtime.loop import Clock, EngineLoop, Hooks
from pitcrew_runtime.metrics import Metrics
from pitcrew_runtime.operations import OPERATIONS
from pitcrew_runtime.server.app import build_app
from pitcrew_runtime.server.health import Health
from pitcrew_runtime.server.keys import Keyring
from pitcrew_runtime.server.lora import LoraEndpoints
from pitcrew_runtime.server.models import Models
from pitcrew_runtime.server.openai import OpenAI
from pitcrew_runtime.server.openapi import Description
from pitcrew_runtime.server.proof import Proof
from pitcrew_runtime.server.served import Served
from pitcrew_runtime.server.tokens import Tokens
from pitcrew_runtime.warmup import warm_up

logger = logging.getLogger(__name__)


class Host:
    """Serves one engine. Sets `leaving` where it cannot be served after all."""

    def __init__(self, loaded: Loaded, wedge_seconds: float, leaving: asyncio.Event) -> None:
        self._manifest = loaded.manifest
        self._leaving = leaving
        self._bell = Bell(asyncio.get_running_loop())
        self._fault: BaseException | None = None
        self._settled = asyncio.Event()
        self._clock: Clock = time.monotonic
        self.metrics = Metrics(loaded.engine.gauges, _labels(loaded.manifest))
        hooks = Hooks(self._on_step, self._on_ready, self._on_death)
        self._loop = EngineLoop(loaded.engine, self._warm_up, hooks, self._clock, wedge_seconds)
        self._frontend = Frontend(self._loop, self.metrics, self._clock)
        self.served = Served(
            loaded.name, loaded.manifest, loaded.language, self._frontend, loaded.library
        )

    def app(self, max_body_bytes: int, keyring: Keyring, lora_root: Path | None) -> ASGIApp:
        """The endpoints over HTTP; adapters may be loaded from under `lora_root`."""
        routes = [
            *OpenAI(self.served, max_body_bytes).routes(),
            *Models(self.served).routes(),
            *LoraEndpoints(self.served.library, lora_root).routes(),
            *Tokens(self.served, max_body_bytes).routes(),
            *Description(OPERATIONS, locked=keyring.locked).routes(),
            *KServeHttp(Service(self.served), max_body_bytes).routes(),
            *Health(self._loop, self._frontend, self.metrics, self._manifest).routes(),
            *Proof(self._frontend, self._manifest).routes(),
        ]
        return build_app(routes, self.metrics, keyring)

    def grpc(
        self, max_message_bytes: int, client_seconds: float, keyring: Keyring
    ) -> grpc.aio.Server:
        """The same over gRPC, without a port."""
        servicer = KServeGrpc(Service(self.served), keyring)
        return servicer.server(max_message_bytes, client_seconds)

    def start(self) -> None:
        """Warm up, and be ready."""
        self._loop.start()

    @property
    def fault(self) -> str | None:
        """Why the engine cannot go on, where a part of it is lost."""
        return self._loop.engine.fault

    def withdraw(self) -> None:
        """Turn readiness red, and go on."""
        self._frontend.leaving = True

    async def warm(self) -> None:
        """Wait for the end of the warm-up. Raises what the engine died of, if it did."""
        await self._settled.wait()
        if self._fault is not None:
            raise self._fault

    async def leave(self, drain_seconds: float) -> None:
        """Finish what runs, for so long, and take nothing new."""
        logger.info("Draining %d requests", self._frontend.active)
        if not await self._frontend.drain(drain_seconds):
            logger.warning(
                "Cancelled what was not finished after --drain-seconds %g", drain_seconds
            )

    def stop(self) -> None:
        """End the engine's thread; raises the `StartupError` that it died of, if any."""
        if not self._loop.stop(timeout=5.0):
            logger.warning("A step is still running; leaving without it")
        self._bell.close()
        self._loop.engine.close()
        if isinstance(self._fault, StartupError):
            raise self._fault

    def _warm_up(self, engine: Engine, clock: Clock) -> None:
        warm_up(engine, self._manifest.canary, clock)

    def _on_step(self, report: StepReport, now: float) -> None:
        self._bell.ring(self._frontend.deliver, report, now)

    def _on_ready(self) -> None:
        self._bell.ring(self._become_ready)

    def _on_death(self, fault: BaseException) -> None:
        self._fault = fault
        self._bell.ring(self._mourn)

    def _become_ready(self) -> None:
        self._frontend.ready = True
        self._settled.set()
        logger.info("Ready: %s serves %s", self.served.name, self._manifest.tag)

    def _mourn(self) -> None:
        """A fault at start-up ends the process; a later one is left for liveness to tell."""
        self._frontend.abandon()
        self._settled.set()
        if isinstance(self._fault, StartupError):
            self._leaving.set()


def _labels(manifest: Manifest) -> dict[str, str]:
    return {
        "engine_id": manifest.engine_id,
        "tag": manifest.tag,
        "model": manifest.identity.model,
        "target": manifest.identity.target_tag,
        "kv_dtype": manifest.ranks[0].kv_dtype,
    }
