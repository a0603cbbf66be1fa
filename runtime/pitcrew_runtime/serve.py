"""The process: opens the engine, serves HTTP at once, warms up, and leaves in good order.

SIGTERM or SIGINT turns readiness red and refuses new requests, lets the running ones finish, and
ends the process with 0. A start-up fault ends it with the fault.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVarTuple

import uvicorn

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.adapters.library import AdapterLibrary
from pitcrew_runtime.adapters.startup import LoraSettings, open_library
from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.constraints.compiler import Compiler
from pitcrew_runtime.core.engine import Engine, StepReport
from pitcrew_runtime.engine_directory import EngineDirectory, open_engine
from pitcrew_runtime.errors import InvalidOption, StartupError
from pitcrew_runtime.frontend import Frontend
from pitcrew_runtime.loop import Clock, EngineLoop, Hooks
from pitcrew_runtime.metrics import Metrics
from pitcrew_runtime.server.app import build_app
from pitcrew_runtime.server.health import Health
from pitcrew_runtime.server.keys import Keyring
from pitcrew_runtime.server.lora import LoraEndpoints
from pitcrew_runtime.server.models import Models
from pitcrew_runtime.server.openai import OpenAI
from pitcrew_runtime.server.served import Served
from pitcrew_runtime.server.tokens import Tokens
from pitcrew_runtime.server.translate import Language
from pitcrew_runtime.text.template import ChatTemplate, find_template
from pitcrew_runtime.text.tokenizer import Tokenizer
from pitcrew_runtime.text.tool_calls import format_of
from pitcrew_runtime.warmup import warm_up

logger = logging.getLogger(__name__)

Args = TypeVarTuple("Args")

MAX_HEADER_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line, parsed."""

    engine: Path
    host: str
    port: int
    model_name: str | None
    world_size: int
    tuning: Tuning
    drain_seconds: float
    wedge_seconds: float
    max_body_bytes: int
    api_keys: frozenset[str]
    lora: LoraSettings


def serve(settings: Settings) -> None:
    """Serve until told to stop. Raises a `StartupError` where the engine cannot be served."""
    listener = _listen(settings.host, settings.port)
    directory = open_engine(settings.engine, settings.world_size)
    engine = assemble(directory, settings.tuning)
    language = load_language(directory, engine.limits.max_sequence_length)
    manifest = directory.manifest
    library = open_library(manifest, model_name(settings, manifest), settings.lora)
    asyncio.run(_Server(settings, manifest, engine, language, library).run(listener))


def model_name(settings: Settings, manifest: Manifest) -> str:
    """What clients call the network itself."""
    return settings.model_name or manifest.identity.slug


def load_language(directory: EngineDirectory, max_length: int) -> Language:
    """Tokenizer and chat template, where the engine has them; raises `EngineCorrupt`."""
    tokenizer_path = directory.file("tokenizer/tokenizer.json")
    if tokenizer_path is None:
        return Language(None, None, directory.manifest.model, max_length)
    config_path = directory.file("tokenizer/tokenizer_config.json")
    config = config_path.read_bytes() if config_path else b"{}"
    tokenizer = Tokenizer.load(tokenizer_path.read_bytes(), config)
    template_path = directory.file("tokenizer/chat_template.jinja")
    source = find_template(
        tokenizer.config, template_path.read_text(encoding="utf-8") if template_path else None
    )
    template = ChatTemplate(source, tokenizer.special_tokens) if source is not None else None
    model = directory.manifest.model
    return Language(
        tokenizer,
        template,
        model,
        max_length,
        Compiler(tokenizer_path.read_text(encoding="utf-8"), model.eos_token_ids, model.vocab_size),
        format_of(source) if source is not None else None,
    )


class _Server:
    """One run of the process."""

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        engine: Engine,
        language: Language,
        library: AdapterLibrary | None,
    ) -> None:
        self._settings = settings
        self._manifest = manifest
        self._engine = engine
        self._language = language
        self._library = library
        self._name = model_name(settings, manifest)
        self._clock: Clock = time.monotonic
        self._fault: BaseException | None = None

    async def run(self, listener: socket.socket) -> None:
        """Everything between the open engine and the exit."""
        self._events = asyncio.get_running_loop()
        self._leaving = asyncio.Event()
        self._metrics = Metrics(self._engine.gauges, _labels(self._manifest))
        hooks = Hooks(self._on_step, self._on_ready, self._on_death)
        loop = EngineLoop(
            self._engine, self._warm_up, hooks, self._clock, self._settings.wedge_seconds
        )
        self._frontend = Frontend(loop, self._metrics, self._clock)
        http = _Uvicorn(self._configuration(loop))
        for number in (signal.SIGTERM, signal.SIGINT):
            self._events.add_signal_handler(number, self._leaving.set)
        loop.start()
        await self._serve_until_told(http, listener)
        if not loop.stop(timeout=5.0):
            logger.warning("A step is still running; leaving without it")
        if isinstance(self._fault, StartupError):
            raise self._fault

    async def _serve_until_told(self, http: uvicorn.Server, listener: socket.socket) -> None:
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        leaving = asyncio.create_task(self._leaving.wait())
        await asyncio.wait((serving, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not serving.done():
            await self._leave()
            http.should_exit = True
        await serving

    async def _leave(self) -> None:
        """Readiness is red from here on; the port stays open so that probes can see it."""
        logger.info("Draining %d requests", self._frontend.active)
        if not await self._frontend.drain(self._settings.drain_seconds):
            logger.warning(
                "Cancelled what was not finished after --drain-seconds %g",
                self._settings.drain_seconds,
            )

    def _warm_up(self, engine: Engine, clock: Clock) -> None:
        warm_up(engine, self._manifest.canary, clock)

    def _on_step(self, report: StepReport, now: float) -> None:
        self._tell(self._frontend.deliver, report, now)

    def _on_ready(self) -> None:
        self._tell(self._become_ready)

    def _on_death(self, fault: BaseException) -> None:
        self._fault = fault
        self._tell(self._mourn)

    def _tell(self, callback: Callable[[*Args], object], *arguments: *Args) -> None:
        # The event loop is gone only when the process is leaving.
        with contextlib.suppress(RuntimeError):
            self._events.call_soon_threadsafe(callback, *arguments)

    def _become_ready(self) -> None:
        self._frontend.ready = True
        logger.info("Ready: %s serves %s", self._name, self._manifest.tag)

    def _mourn(self) -> None:
        """A fault at start-up ends the process; a later one is left for liveness to tell."""
        self._frontend.abandon()
        if isinstance(self._fault, StartupError):
            self._leaving.set()

    def _configuration(self, loop: EngineLoop) -> uvicorn.Config:
        settings = self._settings
        served = Served(self._name, self._manifest, self._language, self._frontend, self._library)
        openai = OpenAI(served, settings.max_body_bytes)
        tokens = Tokens(served, settings.max_body_bytes)
        health = Health(loop, self._frontend, self._metrics, self._manifest)
        lora = LoraEndpoints(self._library, settings.lora.root)
        endpoints = (openai, Models(served), lora, tokens, health)
        routes = [route for each in endpoints for route in each.routes()]
        return uvicorn.Config(
            build_app(routes, self._metrics, Keyring(settings.api_keys)),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_graceful_shutdown=5,
        )


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to us: draining comes before the port is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket: a port in use is told before gigabytes are read. Port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidOption(f"--host {host} --port {port}: {error.strerror or error}") from error
    logger.info("Listening on %s port %d", host, listener.getsockname()[1])
    return listener


def _labels(manifest: Manifest) -> dict[str, str]:
    return {
        "engine_id": manifest.engine_id,
        "tag": manifest.tag,
        "model": manifest.identity.model,
        "target": manifest.identity.target_tag,
        "kv_dtype": manifest.ranks[0].kv_dtype,
    }
