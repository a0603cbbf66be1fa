"""Reads the DCGM exporters of the cluster from time to time, for all deployments at once."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from pitcrew_operator.ask.dcgm import PodName, readings
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.config import Config
from pitcrew_operator.errors import ClusterError, Rejected
from pitcrew_operator.kinds import POD
from pitcrew_operator.manifests.names import url_host
from pitcrew_operator.views import pod_of

_INTERVAL: Final = 60.0
_SOONEST: Final = 10.0
"""Seconds between two looks that pods without a reading lead to."""
_AFTER_A_REFUSAL: Final = 600.0
_STALE: Final = 180.0
"""Readings that are older tell nothing."""
_AT_A_TIME: Final = 16
_NOBODY: Final = "-"

logger = logging.getLogger(__name__)

Readings = dict[PodName, list[float]]


class GpuUsage:
    """The newest readings, by pod."""

    def __init__(
        self,
        cluster: Cluster,
        http: Http,
        config: Config,
        wake: Callable[[PodName], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._http, self._config, self._wake = cluster, http, config, wake
        self._clock, self._looked, self._read_at = clock, float("-inf"), clock()
        self._slots = asyncio.Semaphore(_AT_A_TIME)
        self._told: dict[str, Readings] = {}
        """By the address of the exporter."""
        self.usage: Mapping[PodName, Sequence[float]] = {}

    async def run(self) -> None:
        """Look again and again, for ever, and nobody waits for it."""
        while True:
            pause = await self.pause_after_a_look()
            await asyncio.sleep(pause)

    async def pause_after_a_look(self) -> float:
        """One look, and the seconds until the next. What was read last counts for a while."""
        try:
            await self.look()
        except Rejected as error:
            logger.warning("cannot list DCGM exporters, so GPU usage is not told: %s", error)
            self._take({})
            return _AFTER_A_REFUSAL
        except ClusterError as error:
            logger.debug("cannot list DCGM exporters: %s", error)
            if self._clock() - self._read_at > _STALE:
                self._take({})
        return _INTERVAL

    async def look(self) -> None:
        """One reading of every exporter. Raises ClusterError."""
        if self._config.dcgm_selector == _NOBODY:
            return
        self._looked = self._clock()
        exporters = await self._cluster.select(POD, None, self._config.dcgm_selector)
        ready = (pod for raw in exporters if (pod := pod_of(raw)).ready)
        self._take(await self._scrape({pod.ip for pod in ready if pod.ip}))
        self._read_at = self._clock()

    async def refresh(self, pods: Collection[PodName]) -> None:
        """Read those exporters again that tell of these pods; all of them where one pod is told of by none."""
        known = {ip for ip, told in self._told.items() if not told.keys().isdisjoint(pods)}
        self._take(self._told | await self._scrape(known))
        untold = any(pod not in self.usage for pod in pods)
        if untold and self._clock() - self._looked >= _SOONEST:
            try:
                await self.look()
            except ClusterError as error:
                logger.debug("cannot list DCGM exporters: %s", error)

    def _take(self, told: dict[str, Readings]) -> None:
        self._told = told
        usage = {name: values for each in told.values() for name, values in each.items()}
        touched = self.usage.keys() | usage.keys()
        self.usage = usage
        for name in touched:
            self._wake(name)

    async def _scrape(self, addresses: Iterable[str]) -> dict[str, Readings]:
        asked = sorted(addresses)
        return dict(zip(asked, await asyncio.gather(*map(self._read, asked)), strict=True))

    async def _read(self, ip: str) -> Readings:
        url = f"http://{url_host(ip)}:{self._config.dcgm_port}/metrics"
        try:
            async with self._slots:
                return readings(await self._http.text(url))
        except (NoAnswer, ValueError) as error:
            logger.debug("no reading: %s", error)
            return {}
