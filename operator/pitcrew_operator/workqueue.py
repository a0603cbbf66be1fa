"""A queue of keys with one promise: no key is worked on twice at a time, and none is lost.

Keys that arrive while they wait are coalesced; those that arrive while they are worked on run once
more afterwards. A key that fails waits longer each time; others do not wait for it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FIRST_BACKOFF: Final = 0.5
_LAST_BACKOFF: Final = 60.0

logger = logging.getLogger(__name__)


class RetryLater(Exception):
    """Raised by work that failed in an expected way; the key is repeated."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
        """Seconds to wait at least, where somebody said so."""


class WorkQueue(Generic[K]):
    """Feeds keys to `work`, which answers in how many seconds it wants the key again, if at all.

    `waited` is told how long each key waited for its turn.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._work, self._waited = work, waited
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: dict[K, float] = {}
        self._active: set[K] = set()
        self._dirty: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: set[asyncio.Task[None]] = set()
        self._is_closing = False

    @property
    def depth(self) -> int:
        """Keys that wait now."""
        return len(self._waiting)

    def add(self, key: K) -> None:
        """Have the key worked on as soon as possible."""
        if key in self._active:
            self._dirty.add(key)
        elif key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().time()
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key worked on in so many seconds, or earlier where that was asked before."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        due, timer = loop.time() + seconds, self._timers.get(key)
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def start(self, workers: int) -> None:
        """Begin to work, on what came before too."""
        self._is_closing = False
        self._tasks = [asyncio.create_task(self._worker()) for _ in range(workers)]

    async def close(self, grace: float = 0.0) -> None:
        """Stop. What is being worked on has `grace` seconds to end by itself, and is cancelled then,
        which is as safe as a crash. What waits keeps waiting for another `start`; delays are
        forgotten.
        """
        self._is_closing = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            if task not in self._busy:
                task.cancel()
        if self._busy:
            await asyncio.wait(self._busy, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _worker(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not self._is_closing:
            key = await self._ready.get()
            self._waited(asyncio.get_running_loop().time() - self._waiting.pop(key))
            self._active.add(key)
            self._busy.add(task)
            try:
                await self._attempt(key)
            finally:
                self._busy.discard(task)
                self._active.discard(key)
                with contextlib.suppress(KeyError):
                    self._dirty.remove(key)
                    self.add(key)

    async def _attempt(self, key: K) -> None:
        try:
            again = await self._work(key)
        except RetryLater as error:
            logger.warning("%s: %s", key, error)
            self.add_after(key, max(self._backoff(key), error.after or 0))
        except Exception:
            logger.exception("%s: unexpected error", key)
            self.add_after(key, self._backoff(key))
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add_after(key, again)

    def _backoff(self, key: K) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return float(min(_FIRST_BACKOFF * 2 ** min(failures - 1, 16), _LAST_BACKOFF))
