"""What can wait while there is more to do: the first word about what is on its way.

When a thousand resources come at once, each word about one of them keeps the children of another
waiting. So while many passes are under way, actions that can wait are put off, and resources whose
actions were come again as soon as there is time, or after a minute in any case. With little to do
nothing is put off.
"""

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

LONGEST_SECONDS: Final = 60.0
FREED_AT_ONCE: Final = 64
_MEMORY_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5


class Patience(Generic[K]):
    """Busy is who had as many as `busy` passes under way of late, on average. `add` has a key worked
    on again.
    """

    def __init__(
        self, busy: float, add: Callable[[K], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._busy, self._add, self._clock = busy, add, clock
        self._passes, self._average, self._at = 0, 0.0, clock()
        self._since = dict[K, float]()
        """When something of each key was put off first, the earliest first."""
        self._freed = set[K]()

    @property
    def is_busy(self) -> bool:
        """Whether there is so much to do that some of it should wait."""
        self._pass_time()
        return self._average >= self._busy

    @contextmanager
    def passing(self, key: K) -> Iterator[None]:
        """A pass is under way. Those that make up for what was put off do not count."""
        counts = 0 if key in self._freed else 1
        self._pass_time()
        self._passes += counts
        try:
            yield
        finally:
            self._pass_time()
            self._passes -= counts

    def _pass_time(self) -> None:
        """Older passes weigh less and less."""
        now = self._clock()
        kept = math.exp((self._at - now) / _MEMORY_SECONDS)
        self._average = self._average * kept + self._passes * (1 - kept)
        self._at = now

    def may_wait(self, key: K) -> bool:
        """Whether to put off what can wait of this key; if so, the key comes again by itself."""
        if key in self._freed or not self.is_busy:
            self.forget(key)
            return False
        self._since.setdefault(key, self._clock())
        return True

    def forget(self, key: K) -> None:
        """Nothing of the key waits."""
        self._since.pop(key, None)
        self._freed.discard(key)

    def free(self) -> None:
        """Have those worked on for which there is time now, and those that waited for too long."""
        latest = self._clock() - LONGEST_SECONDS
        quota = 0 if self.is_busy else FREED_AT_ONCE
        for number, (key, since) in enumerate(list(self._since.items())):
            if number >= quota and since > latest:
                return
            del self._since[key]
            self._freed.add(key)
            self._add(key)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.free()
