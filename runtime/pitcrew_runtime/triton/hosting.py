"""An engine at work beside a thread that is not ours: the event loop has a thread of its own."""

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from pitcrew_runtime.host import Host
from pitcrew_runtime.kserve.service import Service
from pitcrew_runtime.loading import load

if TYPE_CHECKING:
    from pitcrew_runtime.serve import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Hosting:
    """Serves one engine from construction to `close`."""

    def __init__(self, settings: "Settings") -> None:
        """Load and warm up. Raises a `StartupError`."""
        self._drain_seconds = settings.drain_seconds
        loaded = load(
            settings.engine,
            settings.model_name,
            settings.world_size,
            settings.tuning,
            settings.lora,
            lambda stage: logger.info("%s", stage.capitalize()),
        )
        self._events = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._events.run_forever, name="events", daemon=True)
        self._thread.start()

        async def start() -> Host:
            host = Host(loaded, settings.wedge_seconds, asyncio.Event())
            host.start()
            return host

        self._host = host = self.run(start()).result()
        try:
            self.run(host.warm()).result()
        except BaseException:
            self._stop()
            raise
        self.service, self.metrics = Service(host.served), host.metrics

    def run(self, work: Coroutine[object, object, T]) -> "Future[T]":
        """Begin `work` on the event loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._events)

    def close(self) -> None:
        """Finish what runs, for as long as draining may take, and end."""
        self.run(self._host.leave(self._drain_seconds)).result()
        self._stop()

    def _stop(self) -> None:
        try:
            self._host.stop()
        finally:
            self._events.call_soon_threadsafe(self._events.stop)
            self._thread.join()
            self._events.close()
