"""Events are written when there is time, and nothing waits for them.

They are courtesy: whatever they tell stands in the conditions too. So none is written twice, one that cannot
be written is logged, and those that still wait when a process is killed are lost.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from pitcrew_operator.cluster import Cluster
from pitcrew_operator.errors import ClusterError
from pitcrew_operator.kinds import Raw
from pitcrew_operator.patience import LONGEST_SECONDS

HELD: Final = 10_000
"""Events that wait at most; the oldest are dropped first."""
_LOOK_SECONDS: Final = 0.5

logger = logging.getLogger(__name__)


class Recorder:
    """Writes one event after the other; while `is_busy` says so each waits, for a minute at most."""

    def __init__(
        self,
        cluster: Cluster,
        is_busy: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._is_busy, self._clock = cluster, is_busy, clock
        self._waiting = deque[tuple[float, Raw]](maxlen=HELD)
        self._news = asyncio.Event()

    async def record(self, event: Raw) -> None:
        """Take an event in."""
        self._waiting.append((self._clock(), event))
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._news.clear()
            await self.write()
            if self._waiting:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await self._news.wait()

    async def write(self) -> None:
        """Those that there is time for, the oldest first."""
        while self._waiting and self._has_time():
            await record_now(self._cluster, self._waiting.popleft()[1])

    async def end(self, seconds: float) -> None:
        """Write what waits for as long as that takes, or so many seconds; drop the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waiting:
                    await record_now(self._cluster, self._waiting.popleft()[1])
        self._waiting.clear()

    def _has_time(self) -> bool:
        return not self._is_busy() or self._clock() - self._waiting[0][0] >= LONGEST_SECONDS


async def record_now(cluster: Cluster, event: Raw) -> None:
    """Write one event."""
    try:
        await cluster.create_event(event)
    except ClusterError as error:
        logger.warning("cannot record an event: %s", error)
