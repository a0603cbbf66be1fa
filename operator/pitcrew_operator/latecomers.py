"""Kinds of others, which a cluster may begin to know at any time: looked for, then watched.

Nothing has to be restarted, and nothing may be read that the cluster does not know.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from pitcrew_operator.errors import ClusterError, Gone, Rejected
from pitcrew_operator.kinds import Kind
from pitcrew_operator.listing import Listings
from pitcrew_operator.store import Store

logger = logging.getLogger(__name__)


class Latecomers:
    """Looks for the kinds every `seconds`. `noticed` is called when one has come or gone."""

    def __init__(
        self,
        listings: Listings,
        store: Store,
        seconds: float,
        noticed: Callable[[], None],
    ) -> None:
        self._listings, self._store = listings, store
        self._seconds, self._noticed = seconds, noticed

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

    async def follow(self, kind: Kind, watch: Callable[[Kind], Awaitable[None]]) -> None:
        """Watch the kind whenever it is there, until cancelled. `watch` raises Gone where it is not."""
        while True:
            if await self.look(kind):
                try:
                    await watch(kind)
                except Gone as error:
                    logger.info("the watch of %s ended: %s", kind.plural, error)
                    # Nobody should be refused what is known to be.
                    await self.look(kind)
            await asyncio.sleep(self._seconds)
