"""The process: answers HTTP at once, loads the engine, warms up, and leaves in good order.

SIGTERM or SIGINT turns readiness red. For as long as clients may not have heard of that, requests
are still taken, and each answer asks its client to connect anew; then new ones are refused, the
running ones finish, and the process ends with 0. A start-up fault ends it with the fault.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc
import uvicorn

from pitcrew_runtime.adapters.startup import LoraSettings
from pitcrew_runtime.assembly import Tuning
from pitcrew_runtime.engine_directory import open_engine
from pitcrew_runtime.errors import GroupLost, InvalidOption
from pitcrew_runtime.execution.resources import usable_cpus
from pitcrew_runtime.host import Host
from pitcrew_runtime.loading import VERIFYING, Loaded, load
from pitcrew_runtime.ranks.following import open_with_leader
from pitcrew_runtime.ranks.pod import serve_pod
from pitcrew_runtime.server.door import MAX_HEADER_BYTES, Door
from pitcrew_runtime.server.keys import Keyring
from pitcrew_runtime.server.patience import patient

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_SECONDS = 0.5
_LAST_WORDS_SECONDS = 5.0
"""How long a server whose group is lost still answers probes, with the reason."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The command line, parsed."""

    engine: Path
    host: str
    port: int
    grpc_port: int | None
    """None: gRPC is not served."""
    model_name: str | None
    world_size: int
    tuning: Tuning
    withdraw_seconds: float
    drain_seconds: float
    wedge_seconds: float
    client_seconds: float
    """How long a client may keep the server waiting."""
    max_body_bytes: int
    api_keys: frozenset[str]
    lora: LoraSettings


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises a `StartupError` where the engine cannot be served, and `GroupLost`.
    """
    pods = settings.tuning.pods
    if pods is not None and pods.index > 0:
        directory = open_engine(settings.engine, settings.world_size)
        threads = settings.tuning.threads or usable_cpus()
        drain_seconds = settings.withdraw_seconds + settings.drain_seconds
        listen = partial(_listen, settings.host, settings.port)
        open_ = partial(open_with_leader, (pods.leader, settings.port), listen)
        serve_pod(directory, pods, threads, drain_seconds, open_)
        return
    listener = _listen(settings.host, settings.port)
    if not asyncio.run(_Process(settings).run(listener)):
        # A thread in the middle of native code aborts an interpreter that ends in the usual way.
        logging.shutdown()
        os._exit(0)


class _Process:
    """One run of the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._door = Door(VERIFYING)

    async def run(self, listener: socket.socket) -> bool:
        """Everything between the open port and the exit; False where the engine still loads."""
        self._leaving = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._leaving.set)
        http = _Uvicorn(_configuration(self._door, self._settings.client_seconds))
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        serving.add_done_callback(lambda _: self._leaving.set())
        try:
            loaded = await self._load()
            if loaded is not None:
                await self._host(loaded, http)
            return loaded is not None
        finally:
            http.should_exit = True
            await serving

    async def _load(self) -> Loaded | None:
        """Raises a `StartupError`; None where the process is told to stop meanwhile."""
        loading = _in_background(self._loaded)
        leaving = asyncio.create_task(self._leaving.wait())
        await asyncio.wait((loading, leaving), return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if loading.done():
            return loading.result()
        loading.cancel()
        return None

    def _loaded(self) -> Loaded:
        settings = self._settings
        return load(
            settings.engine,
            settings.model_name,
            settings.world_size,
            settings.tuning,
            settings.lora,
            self._tell_stage,
        )

    def _tell_stage(self, stage: str) -> None:
        self._door.stage = stage

    async def _host(self, loaded: Loaded, http: "_Uvicorn") -> None:
        settings = self._settings
        host = Host(loaded, settings.wedge_seconds, self._leaving)
        keyring = Keyring(settings.api_keys)
        rpc = host.grpc(settings.max_body_bytes, settings.client_seconds, keyring)
        await self._listen_grpc(rpc)
        self._door.open(host.app(settings.max_body_bytes, keyring, settings.lora.root))
        host.start()
        await self._until_told(host)
        await self._withdraw(host)
        # The ports stay open while it drains, so that probes can see it.
        http.close_idle_connections()
        await asyncio.gather(
            host.leave(settings.drain_seconds), rpc.stop(grace=settings.drain_seconds + 1.0)
        )
        host.stop()

    async def _until_told(self, host: Host) -> None:
        """Raises `GroupLost`, when liveness and running requests have told of it for a while."""
        while not await _within(self._leaving, _LOOK_SECONDS):
            if (fault := host.fault) is not None:
                await _within(self._leaving, _LAST_WORDS_SECONDS)
                host.stop()
                raise GroupLost(fault)

    async def _withdraw(self, host: Host) -> None:
        """Whoever sends requests here learns from readiness that it should not, after a while."""
        host.withdraw()
        self._door.close()
        await asyncio.sleep(self._settings.withdraw_seconds)

    async def _listen_grpc(self, server: grpc.aio.Server) -> None:
        settings = self._settings
        if settings.grpc_port is None:
            return
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            port = server.add_insecure_port(f"{address}:{settings.grpc_port}")
        except RuntimeError as error:
            raise InvalidOption(f"--grpc-port {settings.grpc_port}: {error}") from error
        await server.start()
        logger.info("gRPC on %s port %d", settings.host, port)


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event comes within so many seconds."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _in_background(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run `work` on a thread that the process does not wait for when it ends."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return asyncio.wrap_future(future)


def _configuration(door: Door, client_seconds: float) -> uvicorn.Config:
    return uvicorn.Config(
        door,
        http=patient(client_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=5,
    )


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to us: draining comes before the port is closed."""

    def close_idle_connections(self) -> None:
        """No client should send its next request into a server that is leaving.

        Those that are answered now close after the answer.
        """
        for connection in list(self.server_state.connections):
            connection.shutdown()

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
