"""The progress of running builds, read from their logs, but not more often than is useful.

Every progress that is written to a status is an event that leads to another look; without a limit
a talkative builder would keep the API server busy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pitcrew_builder.report import Progress, last_progress
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.views import Pod

_LINES: Final = 20
_FORGOTTEN_AFTER: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class _Look:
    at: datetime
    progress: Progress | None


class LogTails:
    """Remembers the last look at each pod."""

    def __init__(self, cluster: Cluster, interval: float, now: Callable[[], datetime]) -> None:
        self._cluster, self._now = cluster, now
        self._interval = timedelta(seconds=interval)
        self._looks: dict[str, _Look] = {}

    async def progress(self, pod: Pod) -> Progress | None:
        """The pod's newest progress, at most one interval old. Raises Unavailable."""
        now, last = self._now(), self._looks.get(pod.meta.uid)
        if last is not None and timedelta() <= now - last.at < self._interval:
            return last.progress
        log = await self._cluster.pod_log(pod.meta.namespace, pod.meta.name, _LINES)
        found = last_progress(log) or (last.progress if last else None)
        self._forget(now)
        self._looks[pod.meta.uid] = _Look(now, found)
        return found

    def _forget(self, now: datetime) -> None:
        old = [uid for uid, look in self._looks.items() if now - look.at > _FORGOTTEN_AFTER]
        for uid in old:
            del self._looks[uid]
