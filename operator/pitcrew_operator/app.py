"""The running operator: first a full listing, then workers, then the watches.

Workers start only once every kind was listed. Before that a child that is merely not listed yet
would look like one that is missing.
"""

import asyncio
import logging
from collections.abc import Collection, Hashable
from contextlib import AsyncExitStack
from typing import Final

from pitcrew_operator.ask.asker import PodAsker
from pitcrew_operator.ask.http import Http
from pitcrew_operator.cluster import Cluster, KubeCluster
from pitcrew_operator.config import Config
from pitcrew_operator.dispatch import concerned
from pitcrew_operator.errors import ClusterError, Gone
from pitcrew_operator.kinds import OWNERS, Kind, Raw
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.reconcile import Key, Reconciler
from pitcrew_operator.store import Store
from pitcrew_operator.watch import watch
from pitcrew_operator.web import application, serve
from pitcrew_operator.workqueue import WorkQueue

_LIST_AGAIN_SECONDS: Final = 2.0

logger = logging.getLogger(__name__)


class Operator:
    """Everything of one operator, wired."""

    def __init__(
        self,
        cluster: Cluster,
        config: Config,
        namespaces: Collection[str],
        metrics: Metrics,
        http: Http,
    ) -> None:
        self._cluster, self._config, self._metrics = cluster, config, metrics
        self._namespaces = tuple(namespaces)
        self.store = Store(self._changed)
        self.asker = PodAsker(http, self._answered)
        reconciler = Reconciler(cluster, self.store, config, metrics, self.asker)
        self.queue: WorkQueue[Key] = WorkQueue(reconciler.reconcile)
        self._problem: str | None = "the first listing is not complete"

    def problem(self) -> str | None:
        """Why the operator is not healthy; None where it is."""
        return self._problem

    def _changed(self, kind: Kind, raw: Raw) -> None:
        for key in concerned(kind, raw, self.store, self._config):
            self.queue.add(key)
        self._metrics.queue_depth.set(self.queue.depth)

    def _answered(self, key: Hashable) -> None:
        assert isinstance(key, Key)
        self.queue.add(key)

    async def list_everything(self) -> None:
        """Bring the view up to date with full listings. Raises ClusterError."""
        for kind in self._config.watched:
            for namespace in (self._namespaces if kind.namespaced else ()) or (None,):
                items, version = await self._cluster.list_all(kind, namespace)
                self.store.replace(kind, items, version, namespace)
            self._metrics.objects.labels(kind.kind).set(self.store.count(kind))

    async def first_listing(self) -> None:
        """List until it succeeds: the API server or our CRDs may come up after us."""
        while True:
            try:
                await self.list_everything()
            except ClusterError as error:
                self._problem = _explain(error)
                logger.warning("cannot list yet: %s", self._problem)
                await asyncio.sleep(_LIST_AGAIN_SECONDS)
            else:
                self._problem = None
                self._metrics.synced.set(1)
                return

    async def resync(self) -> None:
        """List and look at everything again from time to time.

        A watch that reconnects can miss a deletion, and a pass that finds nothing to do is cheap.
        """
        while True:
            await asyncio.sleep(self._config.resync_seconds)
            try:
                await self.list_everything()
            except ClusterError as error:
                logger.warning("cannot list again: %s", error)
            for kind in OWNERS:
                for raw in self.store.all(kind):
                    self._changed(kind, raw)


def _explain(error: ClusterError) -> str:
    if isinstance(error, Gone):
        return f"{error}; install the CRDs (chart value crds.enabled, or the files in crds/)"
    return str(error)


async def run(
    config: Config,
    namespaces: Collection[str],
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
) -> None:
    """Run until `stop` is set or a signal arrives. `ready` is set once the watches start."""
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        cluster = await KubeCluster.connect(metrics, connections=2 * config.workers)
        stack.push_async_callback(cluster.close)
        operator = Operator(cluster, config, namespaces, metrics, Http())
        stack.push_async_callback(operator.asker.close)
        web = application(metrics, operator.problem)
        port = await stack.enter_async_context(serve(web, config.http_port))
        logger.info("health and metrics on port %s", port)
        await operator.first_listing()
        operator.queue.start(config.workers)
        stack.push_async_callback(operator.queue.close)
        stack.push_async_callback(_cancel, asyncio.create_task(operator.resync()))
        # kopf ends every task that was not there before it, so it comes last.
        await watch(operator.store, config.watched, namespaces, stop, ready or asyncio.Event())


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
