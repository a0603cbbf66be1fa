"""Kinds of others, which a cluster may begin to know at any time: looked for, then watched.

kopf finds out what a cluster knows when it starts and never again, so each of these kinds gets
watches of its own once it is there. Nothing has to be restarted, and nothing may be read that the
cluster does not know.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection

from pitcrew_operator.errors import ClusterError, Rejected
from pitcrew_operator.kinds import Kind
from pitcrew_operator.listing import Listings
from pitcrew_operator.store import Store
from pitcrew_operator.watch import watch

logger = logging.getLogger(__name__)


class Latecomers:
    """Looks for the kinds every `seconds`. `noticed` is called when one has come or gone."""

    def __init__(
        self,
        listings: Listings,
        store: Store,
        namespaces: Collection[str],
        seconds: float,
        silence: float,
        noticed: Callable[[], None],
    ) -> None:
        self._listings, self._store, self._namespaces = listings, store, tuple(namespaces)
        self._seconds, self._silence, self._noticed = seconds, silence, noticed

    async def look_for(self, kinds: Collection[Kind]) -> None:
        """List those of the kinds that the cluster knows, and take note of which these are."""
        for kind in kinds:
            await self.look(kind)

    async def look(self, kind: Kind) -> bool:
        """List the kind. Whether the cluster knows it, and lets us read it."""
        before = self._store.serves(kind)
        try:
            await self._listings.list_kind(kind)
            known = True
        except Rejected as error:
            logger.debug("%s: %s", kind.plural, error)
            known = False
        except ClusterError as error:
            logger.warning("cannot look for %s: %s", kind.plural, error)
            return before
        self._store.serve(kind, served=known)
        if known != before:
            logger.info("%s of %s: %s", kind.plural, kind.group, "found" if known else "gone")
            self._noticed()
        return known

    async def follow(self, kind: Kind, stop: asyncio.Event) -> None:
        """Watch the kind whenever it is there, until stopped."""
        while not stop.is_set():
            if await self.look(kind):
                await self._watch(kind, stop)
                if not stop.is_set():
                    # The kind is gone, most likely: nobody should be refused what is known to be.
                    await self.look(kind)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._seconds)

    async def _watch(self, kind: Kind, stop: asyncio.Event) -> None:
        """Until stopped, or until kopf gives up, as it does when the kind is gone."""
        began = asyncio.Event()
        try:
            await watch(self._listings, (kind,), self._namespaces, self._silence, stop, began)
        except Exception as error:  # noqa: BLE001 (whatever ends kopf need not end us)
            logger.info("the watch of %s ended: %s: %s", kind.plural, type(error).__name__, error)
