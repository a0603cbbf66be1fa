"""Reads the DCGM exporters of the cluster from time to time, for all deployments at once."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
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
_AFTER_A_REFUSAL: Final = 600.0
_NOBODY: Final = "-"

logger = logging.getLogger(__name__)


class GpuUsage:
    """The newest readings, by pod."""

    def __init__(
        self, cluster: Cluster, http: Http, config: Config, wake: Callable[[PodName], None]
    ) -> None:
        self._cluster, self._http, self._config, self._wake = cluster, http, config, wake
        self.usage: Mapping[PodName, Sequence[float]] = {}

    async def run(self) -> None:
        """Look again and again, for ever; what cannot be read is no news, and nobody waits for it."""
        while True:
            pause = await self._pause_after_a_look()
            await asyncio.sleep(pause)

    async def _pause_after_a_look(self) -> float:
        try:
            await self.look()
        except Rejected as error:
            logger.warning("cannot list DCGM exporters, so GPU usage is not told: %s", error)
            return _AFTER_A_REFUSAL
        except ClusterError as error:
            logger.debug("cannot list DCGM exporters: %s", error)
        return _INTERVAL

    async def look(self) -> None:
        """One reading of every exporter. Raises ClusterError."""
        if self._config.dcgm_selector == _NOBODY:
            return
        exporters = await self._cluster.select(POD, None, self._config.dcgm_selector)
        ready = (pod for raw in exporters if (pod := pod_of(raw)).ready)
        answers = await asyncio.gather(*(self._scrape(pod.ip) for pod in ready if pod.ip))
        usage = {name: values for answer in answers for name, values in answer.items()}
        touched = self.usage.keys() | usage.keys()
        self.usage = usage
        for name in touched:
            self._wake(name)

    async def _scrape(self, ip: str) -> dict[PodName, list[float]]:
        url = f"http://{url_host(ip)}:{self._config.dcgm_port}/metrics"
        try:
            return readings(await self._http.text(url))
        except (NoAnswer, ValueError) as error:
            logger.debug("no reading: %s", error)
            return {}
