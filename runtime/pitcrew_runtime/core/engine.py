"""The heart of the server: schedule, execute, record.

`submit` and `cancel` may be called from any thread; `step` from one. The lock is held while the
scheduler thinks (well under a millisecond), never while the executor computes.

A step whose execution fails is rolled back and comes again. When the next one fails too, its rows
are tried in halves, down to single ones: only requests whose rows fail alone end with an error.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pitcrew_runtime.core.batch import StepBatch
from pitcrew_runtime.core.executor import Chosen, Executor, ExecutorBroken, Work
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.plan import Counts, Plan
from pitcrew_runtime.core.request import Request, Update
from pitcrew_runtime.core.scheduler import Scheduler

logger = logging.getLogger(__name__)

TRIES_TOGETHER = 2
"""Executions that may fail in a row before rows are tried apart."""
BARREN_STEPS_TOLERATED = 3
"""So many steps in a row in which not one row could be computed, however it was tried, mean that
the executor will not come back."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step brought."""

    updates: tuple[Update, ...]
    queue_seconds: tuple[float, ...]
    """For each request that was admitted for the first time: how long it had waited."""
    rows: int
    tokens: int
    computing_seconds: float
    """Of the step's time, that in which the network ran: see `Work.seconds`."""
    host_seconds: float = 0.0
    """The rest of it, while the device waited; told by whoever has a clock."""
    reused: tuple[tuple[int, int], ...] = ()
    """For each of those requests that found any: tokens of its prompt that others had computed."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """The engine at one moment."""

    waiting: int
    running: int
    pages_used: int
    pages_cached: int
    """Nobody's, kept for prompts that begin alike."""
    pages_total: int
    counts: Counts
    work: Work


class Engine:
    """Joins a scheduler to an executor."""

    def __init__(self, scheduler: Scheduler, executor: Executor) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._lock = threading.Lock()
        self._failures = 0
        self._barren = 0
        self._since: float | None = None

    def submit(self, *requests: Request) -> None:
        """Queue all of them or none; raises `QueueFull` or `InvalidRequest`."""
        with self._lock:
            self._scheduler.add(*requests)

    def cancel(self, request_id: int) -> None:
        """End a request at the next step boundary; ended ones are ignored."""
        with self._lock:
            self._scheduler.cancel(request_id)

    def step(self, now: float) -> StepReport:
        """Schedule, execute, record. Raises `InvariantViolated` or `ExecutorBroken`: the end."""
        self._since = now
        try:
            return self._step(now)
        finally:
            self._since = None

    def _step(self, now: float) -> StepReport:
        with self._lock:
            plan = self._scheduler.plan(now)
        fresh = [one for one in plan.admitted if not one.started]
        waited = tuple(now - one.request.arrival for one in fresh)
        reused = tuple((one.id, one.computed) for one in fresh if one.computed)
        before = self._executor.work.seconds
        results = self._compute(plan)
        seconds = self._executor.work.seconds - before
        with self._lock:
            if results is None:
                self._scheduler.rollback(plan)
                return StepReport(plan.ended, (), 0, 0, seconds)
            updates = self._scheduler.commit(plan, results)
        rows = len(plan.batch.rows)
        return StepReport(tuple(updates), waited, rows, plan.tokens, seconds, reused=reused)

    def close(self) -> None:
        """End what computes. No step follows."""
        self._executor.close()

    def gauges(self) -> Gauges:
        """Counts for metrics."""
        with self._lock:
            scheduler, pages = self._scheduler, self._scheduler.pages
            return Gauges(
                scheduler.waiting,
                scheduler.running,
                pages.used,
                pages.cached,
                pages.total,
                replace(scheduler.counts),
                replace(self._executor.work),
            )

    @property
    def limits(self) -> Limits:
        """What requests must keep to."""
        return self._scheduler.limits

    @property
    def fault(self) -> str | None:
        """Why nothing can be computed any more; None while all is well."""
        return self._executor.work.fault

    @property
    def stepping_since(self) -> float | None:
        """When the step began that is under way, if one is."""
        return self._since

    @property
    def idle(self) -> bool:
        """No request is alive."""
        with self._lock:
            return self._scheduler.idle

    def _compute(self, plan: Plan) -> Sequence[Chosen | None] | None:
        """A result for each row; None for the whole where it is to be rolled back."""
        if not plan.batch.rows:
            return ()
        results: Sequence[Chosen | None] | None = self._attempt(plan.batch)
        if results is None:
            self._failures += 1
            if self._failures < TRIES_TOGETHER:
                return None
            results = self._isolate(plan.batch)
        else:
            self._barren = 0
        self._failures = 0
        return results

    def _attempt(self, batch: StepBatch) -> Sequence[Chosen] | None:
        """The executor's answer; None where it failed."""
        try:
            return self._executor.execute(batch)
        except ExecutorBroken:
            raise
        except Exception:
            logger.exception("A batch of %d rows failed to execute", len(batch.rows))
            return None

    def _isolate(self, batch: StepBatch) -> list[Chosen | None]:
        """Results of all rows that can be computed; raises `ExecutorBroken`."""
        results = self._apart(batch)
        alone = [
            row.sequence_id for row, one in zip(batch.rows, results, strict=True) if one is None
        ]
        logger.error(
            "Requests %s cannot be computed, %d others can", alone, len(results) - len(alone)
        )
        self._barren = self._barren + 1 if len(alone) == len(results) else 0
        if self._barren >= BARREN_STEPS_TOLERATED:
            raise ExecutorBroken(f"{self._barren} steps in a row computed nothing")
        return results

    def _apart(self, batch: StepBatch) -> list[Chosen | None]:
        """The rows of a batch that has failed, in halves."""
        if len(batch.rows) == 1:
            return [None]
        middle = len(batch.rows) // 2
        results: list[Chosen | None] = []
        for half in (batch.rows[:middle], batch.rows[middle:]):
            part = batch.of(half)
            computed = self._attempt(part)
            results += self._apart(part) if computed is None else computed
        return results
