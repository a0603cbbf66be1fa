"""The running operator: first a full listing, then the watches, and workers for whoever leads.

Workers start only once every kind was listed. Before that a child that is merely not listed yet
would look like one that is missing. An operator that does not lead lists and watches like the one
that does, so that it can take over at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Hashable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final

from pitcrew_operator.argocd.keeper import Keeper
from pitcrew_operator.ask.asker import PodAsker
from pitcrew_operator.ask.dcgm import PodName
from pitcrew_operator.ask.gpu_usage import GpuUsage
from pitcrew_operator.ask.http import Http
from pitcrew_operator.ask.keys import SecretKeys
from pitcrew_operator.ask.loads import Loads
from pitcrew_operator.cluster import Cluster, KubeCluster
from pitcrew_operator.config import Config
from pitcrew_operator.dispatch import concerned
from pitcrew_operator.election import Elector, KubeLeases
from pitcrew_operator.errors import ClusterError
from pitcrew_operator.kinds import DEPLOYMENT, OPTIONAL, OWNERS, POD, Kind, Raw
from pitcrew_operator.latecomers import Latecomers
from pitcrew_operator.lease import Timing
from pitcrew_operator.listing import Listings
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.patience import Patience
from pitcrew_operator.reconcile import Key, Reconciler, utc_now
from pitcrew_operator.recorder import Recorder
from pitcrew_operator.store import Store
from pitcrew_operator.streams import Streams
from pitcrew_operator.transport import Transport
from pitcrew_operator.watch import watch
from pitcrew_operator.web import application, serve
from pitcrew_operator.workqueue import WorkQueue

_LEASE_CONNECTIONS: Final = 2
_UNLIMITED: Final = 0
_GRACE_SECONDS: Final = 3.0
_EVENT_SECONDS: Final = 1.0
_WATCH_AGAIN_SECONDS: Final = 1.0
_TOGETHER_SECONDS: Final = 0.3
_BUSY: Final = 0.25
"""Share of the workers that have something to do, from which on some actions wait."""

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
        self._config, self._metrics = config, metrics
        self._namespaces = tuple(namespaces)
        self._store = Store(self._changed)
        self._listings = Listings(cluster, self._store, config.watched, namespaces, metrics)
        self._latecomers = Latecomers(
            self._listings, self._store, config.latecomer_seconds, self._look_at_everything
        )
        self.asker = PodAsker(http, SecretKeys(cluster.get), self._answered)
        self.gpus = GpuUsage(cluster, http, config, self._measured)
        self.loads = Loads(
            self._store, self.gpus, http, config.autoscaling_seconds, self._looked_at
        )
        self.patience = Patience[Key](_BUSY * config.workers, self._again)
        self.recorder = Recorder(cluster, lambda: self.patience.is_busy)
        reconciler = Reconciler(
            cluster,
            self._store,
            config,
            metrics,
            self.asker,
            gpus=lambda: self.gpus.usage,
            looks=self.loads.looks,
            patience=self.patience,
            record=self.recorder.record,
            watched=self._watched,
        )
        self._queue: WorkQueue[Key] = WorkQueue(reconciler.reconcile, metrics.queue_seconds.observe)
        metrics.queue_depth.set_function(lambda: self._queue.depth)
        self.problem: str | None = "the first listing is not complete"
        """Why the operator is not healthy; None where it is."""
        self.leads = False
        self._led_since = time.monotonic()

    async def first_listing(self) -> None:
        """Return once the whole view is there."""
        await self._listings.first(self._tell)
        await self._latecomers.look_for(OPTIONAL)
        self._metrics.synced.set(1)

    def lead(self) -> None:
        """Look at every resource, and begin to write. The first listing is complete."""
        self.leads, self._led_since = True, time.monotonic()
        self._metrics.leader.set(1)
        self._look_at_everything()
        self._queue.start(self._config.workers)

    def _watched(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - self._led_since)

    async def rest(self) -> None:
        """Stop writing; passes that have begun may come to their end."""
        self.leads = False
        self._metrics.leader.set(0)
        await self._queue.close(_GRACE_SECONDS)
        await self.recorder.end(_EVENT_SECONDS)
        self._metrics.desired_replicas.clear()
        self._metrics.ready_replicas.clear()

    async def follow(self) -> None:
        """See Listings.follow."""
        await self._listings.follow()

    async def follow_others(self, transport: Transport) -> None:
        """Follow all that kopf does not watch, until cancelled."""
        silence = self._config.watch_silence_seconds
        streams = Streams(transport, self._listings, self._metrics, silence)
        late = [self._latecomers.follow(kind, streams.follow_while_known) for kind in OPTIONAL]
        others = [kind for kind in self._config.watched if kind not in OWNERS]
        await asyncio.gather(streams.follow(others), *late)

    async def resync(self) -> None:
        """List and look at everything again from time to time.

        Nobody can be sure that a watch told everything, and a pass that finds nothing to do is cheap.
        """
        while True:
            await asyncio.sleep(self._config.resync_seconds)
            try:
                await self._listings.list_everything()
            except ClusterError as error:
                logger.warning("cannot list again: %s", error)
            await self._latecomers.look_for(OPTIONAL)
            self._look_at_everything()

    async def watch(self, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Watch until stopped; begin anew, with a full listing, whenever the watches give up."""
        while not stop.is_set():
            try:
                await watch(
                    self._listings,
                    OWNERS,
                    self._namespaces,
                    self._config.watch_silence_seconds,
                    stop,
                    ready,
                )
            except Exception as error:  # noqa: BLE001 (whatever ends kopf need not end us)
                self._metrics.watch_failures.inc()
                logger.warning("the watches gave up: %s: %s", type(error).__name__, error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _WATCH_AGAIN_SECONDS)

    def _tell(self, problem: str | None) -> None:
        self.problem = problem

    def _changed(self, kind: Kind, raw: Raw) -> None:
        # Where there is much to do, what comes together of one resource is looked at in one pass.
        seconds = _TOGETHER_SECONDS if self.patience.is_busy else 0.0
        for key in concerned(kind, raw, self._store, self._config):
            self._queue.add_after(key, seconds)

    def _again(self, key: Key) -> None:
        self._queue.add(key)

    def _answered(self, key: Hashable) -> None:
        assert isinstance(key, Key)
        self._queue.add(key)

    def _measured(self, pod: PodName) -> None:
        raw = self._store.get(POD, *pod)
        if raw is not None:
            self._changed(POD, raw)

    def _looked_at(self, namespace: str, name: str) -> None:
        self._queue.add(Key(DEPLOYMENT, namespace, name))

    def _look_at_everything(self) -> None:
        for kind in OWNERS:
            for raw in self._store.all(kind):
                self._changed(kind, raw)


async def run(
    config: Config,
    namespaces: Collection[str],
    stop: asyncio.Event,
    ready: asyncio.Event | None = None,
) -> None:
    """Run until `stop` is set or a signal arrives. `ready` is set once the watches start."""
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(_connected(metrics, 2 * config.workers))
        watching = await stack.enter_async_context(_connected(metrics, _UNLIMITED))
        elector = await _elector(config, metrics, stack)
        cluster = KubeCluster(transport, elector.permitted) if elector else KubeCluster(transport)
        operator = Operator(cluster, config, namespaces, metrics, Http())
        stack.push_async_callback(operator.asker.close)
        web = application(metrics, lambda: operator.problem, lambda: operator.leads)
        port = await stack.enter_async_context(serve(web, config.http_port))
        logger.info("health and metrics on port %s", port)
        stopped = await stack.enter_async_context(_stopped(stop))
        if not await _first(operator.first_listing(), stopped):
            return
        works = (
            _lead(operator, elector),
            operator.follow(),
            operator.resync(),
            operator.follow_others(watching),
            operator.gpus.run(),
            operator.loads.run(lambda: operator.leads),
            operator.patience.run(),
            operator.recorder.run(),
            _rules(config, cluster, metrics, operator).run(),
        )
        for work in works:
            await stack.enter_async_context(_going(work, stop))
        await operator.watch(stop, ready or asyncio.Event())


@contextlib.asynccontextmanager
async def _stopped(stop: asyncio.Event) -> AsyncIterator["asyncio.Task[bool]"]:
    """Signals set `stop`; the task ends when it is set."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    task = asyncio.create_task(stop.wait())
    try:
        yield task
    finally:
        task.cancel()
        for number in signals:
            loop.remove_signal_handler(number)


async def _first(work: Coroutine[None, None, None], stopped: "asyncio.Task[bool]") -> bool:
    """Whether the work came to its end before we were stopped."""
    task = asyncio.create_task(work)
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
        return True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return False


async def _elector(config: Config, metrics: Metrics, stack: AsyncExitStack) -> Elector | None:
    """None where the settings name no lease: then this operator is alone."""
    if config.lease is None:
        return None
    namespace, _, name = config.lease.partition("/")
    identity = config.identity or f"{socket.gethostname()}_{os.getpid()}"
    timing = Timing(config.lease_seconds)
    transport = await stack.enter_async_context(_connected(metrics, _LEASE_CONNECTIONS))
    leases = KubeLeases(transport, (namespace, name), timing, utc_now)
    return Elector(leases, identity, timing, utc_now)


def _rules(config: Config, cluster: KubeCluster, metrics: Metrics, operator: Operator) -> Keeper:
    namespaces, seconds = config.argocd_namespaces, config.argocd_seconds
    return Keeper(cluster, namespaces, seconds, metrics, leads=lambda: operator.leads)


async def _lead(operator: Operator, elector: Elector | None) -> None:
    if elector is not None:
        await elector.lead(operator.lead, operator.rest)
    operator.lead()
    try:
        await asyncio.Event().wait()
    finally:
        await operator.rest()


@contextlib.asynccontextmanager
async def _connected(metrics: Metrics, connections: int) -> AsyncIterator[Transport]:
    transport = await Transport.connect(metrics, connections)
    try:
        yield transport
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def _going(work: Coroutine[None, None, None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Work that goes on for as long as the block lasts; where it fails, everything stops."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
