"""Keeps our health rules in Argo CD's ConfigMaps for as long as this operator leads.

Argo CD may come after us, and whoever keeps its ConfigMap may write it whole: so it is looked at again and
again, which costs one read. Whatever is in the way is told once, and never stops anything else.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final, Protocol

from pitcrew_operator.argocd.rules import CONFIG, KEYS, find, key_of
from pitcrew_operator.errors import ClusterError
from pitcrew_operator.kinds import CONFIG_MAP, Kind, Raw
from pitcrew_operator.metrics import Metrics

_STANDBY_SECONDS: Final = 1.0
_VALUE: Final = "argocd.namespaces of the chart"

logger = logging.getLogger(__name__)


class Shared(Protocol):
    """Objects of others. Every method may raise a ClusterError."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """One object, read live; None where there is none."""

    async def contribute(self, kind: Kind, manifest: Raw) -> Raw:
        """Own these fields of an object, unless they are somebody else's."""


class Keeper:
    """Looks at the `argocd-cm` of each namespace every `seconds`, while `leads` says that we may write."""

    def __init__(
        self,
        cluster: Shared,
        namespaces: Collection[str],
        seconds: float,
        metrics: Metrics,
        leads: Callable[[], bool],
    ) -> None:
        self._cluster, self._namespaces, self._seconds = cluster, namespaces, seconds
        self._metrics, self._leads = metrics, leads
        self._told: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            leads = self._leads()
            for namespace in self._namespaces if leads else ():
                await self.look(namespace)
            await asyncio.sleep(self._seconds if leads else _STANDBY_SECONDS)

    async def look(self, namespace: str) -> None:
        """Give the rules that are missing in one namespace, and tell how they stand."""
        try:
            level, text, count = await self._keep(namespace)
        except ClusterError as error:
            level, count = logging.WARNING, 0
            text = f"cannot give Argo CD its rules in {namespace}/{CONFIG}: {error}"
        self._metrics.argocd_rules.labels(namespace).set(count)
        if self._told.get(namespace) != text:
            self._told[namespace] = text
            logger.log(level, text)

    async def _keep(self, namespace: str) -> tuple[int, str, int]:
        """Level, text, and how many kinds have our rule now."""
        config = await self._cluster.get(CONFIG_MAP, namespace, CONFIG)
        if config is None:
            text = (
                f"there is no ConfigMap {namespace}/{CONFIG}, so Argo CD has no health rules of "
                f"ours: install Argo CD in {namespace}, or correct {_VALUE}; looking again every "
                f"{self._seconds:g} s"
            )
            return logging.WARNING, text, 0
        found = find(config)
        if found.patch is not None:
            await self._cluster.contribute(CONFIG_MAP, found.patch)
        if found.left:
            return logging.WARNING, _left(namespace, found.left), len(KEYS) - len(found.left)
        return logging.INFO, f"{namespace}/{CONFIG} has our health rules", len(KEYS)


def _left(namespace: str, kinds: Collection[Kind]) -> str:
    names = " and ".join(kind.kind for kind in kinds)
    keys = " or ".join(key_of(kind) for kind in kinds)
    return (
        f"{namespace}/{CONFIG} has a health rule of somebody else's for {names}, which stays: to get "
        f"Pitcrew's, remove it ({keys}, or its part of resource.customizations)"
    )
