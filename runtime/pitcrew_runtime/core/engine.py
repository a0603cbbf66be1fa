"""The heart of the server: schedule, execute, record.

`submit` and `cancel` may be called from any thread; `step` from one. The lock is held while the
scheduler thinks (well under a millisecond), never while the executor computes.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pitcrew_runtime.core.executor import Executor
from pitcrew_runtime.core.request import Request, Sampled, Update
from pitcrew_runtime.core.scheduler import Limits, Plan, Scheduler

logger = logging.getLogger(__name__)

TRIES_PER_BATCH = 2
"""A batch whose execution fails this often in a row ends with an error."""
FAILURES_TOLERATED = 6
"""So many failed executions in a row mean that the executor will not come back."""


class ExecutorBroken(Exception):
    """The executor has failed too often in a row."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step brought."""

    updates: tuple[Update, ...]
    queue_seconds: tuple[float, ...]
    """For each request that was admitted for the first time: how long it had waited."""
    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Gauges:
    """The engine at one moment."""

    waiting: int
    running: int
    pages_used: int
    pages_total: int
    preemptions: int


class Engine:
    """Joins a scheduler to an executor."""

    def __init__(self, scheduler: Scheduler, executor: Executor) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._lock = threading.Lock()
        self._failures = 0

    def submit(self, request: Request) -> None:
        """Queue a request; raises `QueueFull` or `InvalidRequest`."""
        with self._lock:
            self._scheduler.add(request)

    def cancel(self, request_id: int) -> None:
        """End a request at the next step boundary; ended ones are ignored."""
        with self._lock:
            self._scheduler.cancel(request_id)

    def step(self, now: float) -> StepReport:
        """Schedule, execute, record. Raises `InvariantViolated` or `ExecutorBroken`: the end."""
        with self._lock:
            plan = self._scheduler.plan()
        waited = tuple(now - s.request.arrival for s in plan.admitted if not s.started)
        results = self._execute(plan)
        with self._lock:
            updates = self._record(plan, results)
        return StepReport(
            tuple(updates),
            waited if results is not None else (),
            len(plan.batch.rows),
            plan.batch.tokens,
        )

    def gauges(self) -> Gauges:
        """Counts for metrics."""
        with self._lock:
            pages = self._scheduler.pages
            return Gauges(
                self._scheduler.waiting,
                self._scheduler.running,
                pages.used,
                pages.total,
                self._scheduler.preemptions,
            )

    @property
    def limits(self) -> Limits:
        """What requests must keep to."""
        return self._scheduler.limits

    @property
    def idle(self) -> bool:
        """No request is alive."""
        with self._lock:
            return self._scheduler.idle

    def _execute(self, plan: Plan) -> Sequence[Sampled | None] | None:
        """The executor's answer; None where it failed."""
        if not plan.batch.rows:
            return ()
        try:
            results = self._executor.execute(plan.batch)
        except Exception:
            self._failures += 1
            logger.exception("A batch of %d rows failed to execute", len(plan.batch.rows))
            return None
        self._failures = 0
        return results

    def _record(self, plan: Plan, results: Sequence[Sampled | None] | None) -> list[Update]:
        if results is not None:
            return self._scheduler.commit(plan, results)
        self._scheduler.rollback(plan)
        if self._failures >= FAILURES_TOLERATED:
            raise ExecutorBroken(f"the executor failed {self._failures} times in a row")
        if self._failures % TRIES_PER_BATCH:
            return list(plan.ended)
        return [*plan.ended, *self._scheduler.fail(plan)]
