"""Full listings, page by page: at the start, from time to time, and whenever a watch began anew.

A watch that was away for too long begins anew with what there is, and tells nothing of what was
deleted meanwhile. A listing does, because the view forgets what a newer listing lacks.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from pitcrew_operator.cluster import Cluster
from pitcrew_operator.errors import ClusterError, Gone
from pitcrew_operator.kinds import OWNERS, Kind, Raw
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.store import Store

_LIST_AGAIN_SECONDS: Final = 2.0
_SETTLE_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)


class Listings:
    """Keeps the view true to the cluster. It is what the watches tell."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        kinds: Collection[Kind],
        namespaces: Collection[str],
        metrics: Metrics,
    ) -> None:
        self._cluster, self._store, self._metrics = cluster, store, metrics
        self._kinds, self._namespaces = tuple(kinds), tuple(namespaces)
        self._news = asyncio.Event()
        self._versions: dict[tuple[Kind, str | None], str] = {}

    def put(self, kind: Kind, raw: Raw) -> None:
        """See View."""
        self._store.put(kind, raw)

    def remove(self, kind: Kind, raw: Raw) -> None:
        """See View."""
        self._store.remove(kind, raw)

    def relisted(self, kind: Kind) -> None:
        """See View. It is called for every object, and one listing answers all of that.

        Whatever cut one watch may have cut others, and one of kopf's that finds nothing left tells
        nothing: so all of ours are listed.
        """
        self._news.set()

    def scopes(self, kind: Kind) -> tuple[str | None, ...]:
        """The namespaces in which the kind is looked at; None stands for the whole cluster."""
        return (self._namespaces if kind.namespaced else ()) or (None,)

    def version(self, kind: Kind, namespace: str | None) -> str:
        """The resource version of the last listing; empty where there was none."""
        return self._versions.get((kind, namespace), "")

    async def list_scope(self, kind: Kind, namespace: str | None) -> str:
        """Bring the view of one kind in one scope up to date; the listing's resource version.

        Raises ClusterError.
        """
        known = partial(self._store.known, kind)
        items, version = await self._cluster.list_all(kind, namespace, known)
        self._store.replace(kind, items, version, namespace)
        self._metrics.objects.labels(kind.kind).set(self._store.count(kind))
        self._versions[kind, namespace] = version
        return version

    async def list_kind(self, kind: Kind) -> None:
        """Bring the view of one kind up to date. Raises ClusterError."""
        for namespace in self.scopes(kind):
            await self.list_scope(kind, namespace)

    async def list_everything(self) -> None:
        """Bring the view up to date. Raises ClusterError."""
        await self._list(self._kinds)

    async def _list(self, kinds: Collection[Kind]) -> None:
        for kind in kinds:
            await self.list_kind(kind)

    async def first(self, tell: Callable[[str | None], None]) -> None:
        """List everything until it succeeds: the API server or our CRDs may come up after us."""
        await self._persist(self._kinds, tell)

    async def _persist(
        self, kinds: Collection[Kind], tell: Callable[[str | None], None] = lambda problem: None
    ) -> None:
        while True:
            try:
                await self._list(kinds)
            except ClusterError as error:
                tell(_explain(error))
                logger.warning("cannot list yet: %s", _explain(error))
                await asyncio.sleep(max(_LIST_AGAIN_SECONDS, _patience(error)))
            else:
                tell(None)
                return

    async def follow(self) -> None:
        """List what kopf watches whenever watches have begun anew, for as long as this runs."""
        while True:
            await self._news.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            self._news.clear()
            self._metrics.relists.inc()
            await self._persist(OWNERS)


def _patience(error: ClusterError) -> float:
    """Seconds that the API server asked us to wait."""
    return getattr(error, "retry_after", None) or 0.0


def _explain(error: ClusterError) -> str:
    if isinstance(error, Gone):
        return f"{error}; install the CRDs (chart value crds.enabled, or the files in crds/)"
    return str(error)
