"""One of several operators writes: whoever holds the Lease.

The holder may write until `deadline` after it *asked* for its last successful renewal; the others wait
for the whole duration after they *saw* it. So writing ends before anybody else's begins, whatever
clocks show and however long a process was stopped. The client's own `leaderelection` was looked at: it
measures by the wall clock, lets a hanging request outlive the deadline, and releases nothing.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Protocol

from pitcrew_operator import lease
from pitcrew_operator.errors import ClusterError, Conflict, Gone, NotLeader
from pitcrew_operator.kinds import LEASE, Raw
from pitcrew_operator.lease import Sight, Timing
from pitcrew_operator.transport import Transport

_NEVER: Final = -math.inf

logger = logging.getLogger(__name__)


class Leases(Protocol):
    """One Lease. Every method may raise a ClusterError, and gives up after so many seconds."""

    async def read(self, seconds: float) -> Raw | None:
        """The lease; None where there is none."""

    async def create(self, identity: str, seconds: float) -> Raw:
        """Make it ours. Raises Conflict where somebody else was faster."""

    async def replace(self, raw: Raw, seconds: float) -> Raw:
        """Write over the version that was read. Raises Conflict, or Gone."""


class KubeLeases:
    """A Lease on a real API server, over connections that no other work can fill."""

    def __init__(
        self,
        transport: Transport,
        place: tuple[str, str],
        timing: Timing,
        now: Callable[[], datetime],
    ) -> None:
        self._transport, self._timing, self._now = transport, timing, now
        self._namespace, self._name = place

    async def read(self, seconds: float) -> Raw | None:
        """See Leases."""
        path = LEASE.path(self._namespace, self._name)
        try:
            return await self._transport.json("GET", LEASE, path, seconds=seconds)
        except Gone:
            return None

    async def create(self, identity: str, seconds: float) -> Raw:
        """See Leases."""
        body = lease.first(self._namespace, self._name, identity, self._timing, self._now())
        path = LEASE.path(self._namespace)
        return await self._transport.json("POST", LEASE, path, body=body, seconds=seconds)

    async def replace(self, raw: Raw, seconds: float) -> Raw:
        """See Leases."""
        path = LEASE.path(self._namespace, self._name)
        return await self._transport.json("PUT", LEASE, path, body=raw, seconds=seconds)


class Elector:
    """Takes the lease, holds it, and tells whether it is held."""

    def __init__(
        self,
        leases: Leases,
        identity: str,
        timing: Timing,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases, self._identity, self._timing = leases, identity, timing
        self._now, self._clock = now, clock
        self._sight: Sight | None = None
        self._until = _NEVER
        self.problem: str | None = None
        """Why the lease could not be read or written at the last try."""

    def permitted(self) -> float:
        """Seconds for which we may go on writing. Raises NotLeader where there are none."""
        left = self._until - self._clock()
        if left <= 0:
            raise NotLeader("the lease is not held by this operator: nothing was written")
        return left

    @property
    def is_leader(self) -> bool:
        """Whether we may write now."""
        return self._until > self._clock()

    async def lead(self, begin: Callable[[], None], end: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, `begin`, hold it, `end`; again and again until cancelled.

        Whatever ends it, `end` has returned before the lease is given back.
        """
        while True:
            await self._acquire()
            logger.info("leading", extra={"fields": {"identity": self._identity}})
            begin()
            try:
                await self._hold()
                logger.warning("the lease is lost: no longer leading")
            finally:
                await end()
                self._until = _NEVER
                await self._release()

    async def _acquire(self) -> None:
        while True:
            if await self._attempt(self._take, self._timing.deadline):
                return
            await asyncio.sleep(self._timing.retry)

    async def _hold(self) -> None:
        """Renew until that has failed for too long, or somebody else holds it."""
        while (left := self._until - self._clock()) > 0:
            await asyncio.sleep(min(self._timing.retry, left))
            if (left := self._until - self._clock()) > 0:
                await self._attempt(self._renew, left)
            if self._sight is not None and not self._is_ours(self._sight.raw):
                self._until = _NEVER

    async def _attempt(
        self, write: Callable[[float], Awaitable[Raw | None]], seconds: float
    ) -> bool:
        """One try to hold it for another while."""
        asked = self._clock()
        try:
            raw = await write(seconds)
        except ClusterError as error:
            self._tell(str(error))
            if isinstance(error, (Conflict, Gone)):
                await self._look()
            return False
        self._tell(None)
        if raw is None:
            return False
        self._sight = Sight(raw, self._clock())
        self._until = asked + self._timing.deadline
        return True

    async def _take(self, seconds: float) -> Raw | None:
        raw = await self._leases.read(seconds)
        if raw is None:
            return await self._leases.create(self._identity, seconds)
        now = self._clock()
        self._sight = self._sight.looked(raw, now) if self._sight else Sight(raw, now)
        if not self._sight.is_free(self._identity, now):
            return None
        return await self._leases.replace(self._ours(raw), seconds)

    async def _renew(self, seconds: float) -> Raw | None:
        if self._sight is None:
            return await self._leases.create(self._identity, seconds)
        return await self._leases.replace(self._ours(self._sight.raw), seconds)

    async def _look(self) -> None:
        """After a refused write: is it still ours, and at which version?"""
        with contextlib.suppress(ClusterError):
            raw = await self._leases.read(self._timing.retry)
            self._sight = Sight(raw, self._clock()) if raw is not None else None

    async def _release(self) -> None:
        """Let the next one in at once; where that fails, it waits for the duration."""
        if self._sight is None or not self._is_ours(self._sight.raw):
            return
        try:
            free = lease.released(self._sight.raw)
            raw = await self._leases.replace(free, self._timing.deadline)
            self._sight = Sight(raw, self._clock())
        except ClusterError as error:
            logger.warning("cannot give the lease back: %s", error)

    def _ours(self, raw: Raw) -> Raw:
        return lease.taken(raw, self._identity, self._timing, self._now())

    def _is_ours(self, raw: Raw) -> bool:
        return lease.holder(raw) == self._identity

    def _tell(self, problem: str | None) -> None:
        if problem and problem != self.problem:
            logger.warning("the lease cannot be renewed or taken: %s", problem)
        self.problem = problem
