"""Digests of the prompts that ConfigMaps hold, read live, but not more often than is useful.

ConfigMaps are not watched: a cluster holds thousands of them, and few hold prompts.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pitcrew_operator.api.prompts import ConfigMapKey
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.kinds import CONFIG_MAP, Raw

INTERVAL: Final = timedelta(seconds=10)
_FORGOTTEN_AFTER: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class _Look:
    at: datetime
    digests: Mapping[str, str] | None


class ConfigMaps:
    """Remembers the last look at each ConfigMap that somebody asked for."""

    def __init__(self, cluster: Cluster, now: Callable[[], datetime]) -> None:
        self._cluster, self._now = cluster, now
        self._looks: dict[tuple[str, str], _Look] = {}

    async def digests(
        self, namespace: str, keys: Iterable[ConfigMapKey]
    ) -> dict[ConfigMapKey, str | None]:
        """SHA-256 of each key's content, None where it is not there. Raises Unavailable."""
        found: dict[ConfigMapKey, str | None] = {}
        for key in keys:
            held = await self._look(namespace, key.name)
            found[key] = held.get(key.key) if held is not None else None
        return found

    async def _look(self, namespace: str, name: str) -> Mapping[str, str] | None:
        now, last = self._now(), self._looks.get((namespace, name))
        if last is not None and timedelta() <= now - last.at < INTERVAL:
            return last.digests
        raw = await self._cluster.get(CONFIG_MAP, namespace, name)
        self._forget(now)
        self._looks[namespace, name] = _Look(now, None if raw is None else _digests(raw))
        return self._looks[namespace, name].digests

    def _forget(self, now: datetime) -> None:
        old = [key for key, look in self._looks.items() if now - look.at > _FORGOTTEN_AFTER]
        for key in old:
            del self._looks[key]


def _digests(raw: Raw) -> dict[str, str]:
    """By key. `binaryData` is digested as it is written: equal bytes have equal Base64."""
    held = {**(raw.get("data") or {}), **(raw.get("binaryData") or {})}
    return {key: hashlib.sha256(text.encode()).hexdigest() for key, text in held.items()}
