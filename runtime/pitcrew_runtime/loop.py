"""The thread that steps the engine: warm-up first, then steps while there is work.

The thread tells its news through one callback per step. It never waits for a reader, so a slow
client cannot hold up a step. What went wrong, and whether a step is stuck, can be asked from
outside: that is what liveness is made of.
"""

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from pitcrew_runtime.core.engine import Engine, StepReport
from pitcrew_runtime.core.request import Request
from pitcrew_runtime.errors import StartupError

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom the thread tells. All are called on the engine's thread."""

    stepped: Callable[[StepReport, float], None]
    """After each step, with the time of its end."""
    ready: Callable[[], None]
    """Once, after the warm-up."""
    died: Callable[[BaseException], None]
    """At most once; no step follows."""


class EngineLoop:
    """Owns the engine's thread."""

    def __init__(
        self,
        engine: Engine,
        warm_up: Callable[[Engine, Clock], None],
        hooks: Hooks,
        clock: Clock,
        wedge_seconds: float,
    ) -> None:
        self.engine = engine
        self._warm_up = warm_up
        self._hooks = hooks
        self._clock = clock
        self._wedge_seconds = wedge_seconds
        self._wake = threading.Event()
        self._stopping = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin with the warm-up."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """End after the current step; False where that did not happen in time."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def submit(self, *requests: Request) -> None:
        """Queue all or none, from any thread; raises `QueueFull` or `InvalidRequest`."""
        self.engine.submit(*requests)
        self._wake.set()

    def cancel(self, request_id: int) -> None:
        """End a request, from any thread."""
        self.engine.cancel(request_id)
        self._wake.set()

    def trouble(self) -> str | None:
        """Why this process should be replaced; None while all is well."""
        if self._fault is not None:
            return f"the engine stopped: {type(self._fault).__name__}: {self._fault}"
        if self.engine.fault is not None:
            return f"the engine cannot go on: {self.engine.fault}"
        started = self.engine.stepping_since
        if started is not None and (elapsed := self._clock() - started) > self._wedge_seconds:
            return f"a step has been running for {elapsed:.0f} s (limit {self._wedge_seconds:g} s)"
        return None

    def _run(self) -> None:
        try:
            self._warm_up(self.engine, self._clock)
            # What lives by now lives long: looking through it again would cost a step milliseconds.
            gc.collect()
            gc.freeze()
            self._hooks.ready()
            while not self._stopping:
                self._turn()
        except BaseException as fault:
            if not isinstance(fault, StartupError):
                logger.exception("The engine stopped")
            self._fault = fault
            self._hooks.died(fault)

    def _turn(self) -> None:
        # Cleared before the question: whoever submits after it sets it again.
        self._wake.clear()
        if self.engine.idle:
            self._wake.wait()
            return
        now = self._clock()
        report = self.engine.step(now)
        end = self._clock()
        waited = max(0.0, end - now - report.computing_seconds)
        self._hooks.stepped(replace(report, host_seconds=waited), end)
