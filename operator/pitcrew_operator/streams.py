"""Plain watches of everything but our own resources: a listing, and the lines that come after it.

Children change ten times as often as what they belong to. kopf keeps a task, a queue and a logger for
each object that changes, for handlers that nobody registers for a child: through it an event costs ten
times as much.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from pitcrew_operator.errors import ClusterError, Gone, Rejected, Unavailable
from pitcrew_operator.kinds import Kind
from pitcrew_operator.listing import Listings
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.transport import parsed

# The server ends a watch after this, and the next one goes on where it ended.
_SERVER_SECONDS: Final = 290
_PAUSE_SECONDS: Final = 0.1
_BACKOFFS: Final = (0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0)
_TOLD_AT_ONCE: Final = 100

_Work = Callable[[Kind, str | None], Awaitable[None]]

logger = logging.getLogger(__name__)


class Wire(Protocol):
    """Where the lines come from; see `Transport.stream`."""

    def stream(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AbstractAsyncContextManager[AsyncIterator[list[bytes]]]:
        """The lines of an answer as they come. Raises ClusterError."""


class Streams:
    """Tells the listings' view of every change. A stream that says nothing for `silence` seconds, no
    bookmark either, is taken for dead.
    """

    def __init__(self, wire: Wire, listings: Listings, metrics: Metrics, silence: float) -> None:
        self._wire, self._listings = wire, listings
        self._metrics, self._silence = metrics, silence

    async def follow(self, kinds: Collection[Kind]) -> None:
        """Until cancelled."""
        await self._gather(kinds, self._persist)

    async def follow_while_known(self, kind: Kind) -> None:
        """Until cancelled. Raises Gone as soon as the cluster does not know the kind any more."""
        await self._gather((kind,), self._follow)

    async def _gather(self, kinds: Collection[Kind], work: _Work) -> None:
        works = [
            asyncio.ensure_future(work(kind, namespace))
            for kind in kinds
            for namespace in self._listings.scopes(kind)
        ]
        try:
            await asyncio.gather(*works)
        finally:
            for task in works:
                task.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _persist(self, kind: Kind, namespace: str | None) -> None:
        while True:
            try:
                await self._follow(kind, namespace)
            except Gone as error:
                logger.warning("cannot watch %s: %s", kind.plural, error)
                await asyncio.sleep(_BACKOFFS[-1])

    async def _follow(self, kind: Kind, namespace: str | None) -> None:
        version, failures = self._listings.version(kind, namespace), 0
        while True:
            try:
                version = version or await self._list_again(kind, namespace)
                async for newest in self._watch(kind, namespace, version):
                    version, failures = newest, 0
                await asyncio.sleep(_PAUSE_SECONDS)
            except Gone:
                raise
            except ClusterError as error:
                logger.info("the watch of %s broke: %s", kind.plural, error)
                self._metrics.watch_failures.inc()
                # A connection that was cut is opened anew where it was, once.
                version = "" if failures or isinstance(error, Rejected) else version
                await asyncio.sleep(_BACKOFFS[min(failures, len(_BACKOFFS) - 1)])
                failures += 1

    async def _list_again(self, kind: Kind, namespace: str | None) -> str:
        """Only a listing tells what was deleted while nobody watched."""
        version = await self._listings.list_scope(kind, namespace)
        self._metrics.relists.inc()
        self._listings.relisted(kind)
        return version

    async def _watch(self, kind: Kind, namespace: str | None, version: str) -> AsyncIterator[str]:
        """Until the server ends the stream; after each change, the version to go on from."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_SERVER_SECONDS),
        } | ({"labelSelector": kind.selector} if kind.selector else {})
        path = kind.path(namespace)
        async with self._wire.stream(path, query, self._silence) as news:
            async for lines in news:
                for number, line in enumerate(lines, 1):
                    if line:
                        yield self._tell(kind, parsed(line, f"GET {path}"))
                    if number % _TOLD_AT_ONCE == 0:
                        await asyncio.sleep(0)  # whoever else has something to do

    def _tell(self, kind: Kind, event: dict[str, Any]) -> str:
        change, raw = event.get("type"), event.get("object") or {}
        if change == "ERROR":
            raise Rejected(raw.get("code") or 0, raw.get("message") or "")
        version: str = (raw.get("metadata") or {}).get("resourceVersion") or ""
        if not version:
            raise Unavailable(f"the watch of {kind.plural} told something else than an event")
        if change == "DELETED":
            self._listings.remove(kind, raw)
        elif change != "BOOKMARK":
            self._listings.put(kind, raw)
        return version
