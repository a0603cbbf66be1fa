"""API keys of pods: read when they are needed, sent to these pods alone, and kept nowhere."""

import base64
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from pitcrew_operator.ask.http import NoAnswer
from pitcrew_operator.errors import ClusterError, Rejected
from pitcrew_operator.kinds import SECRET, Kind, Raw, at
from pitcrew_operator.plan.questions import KeyPlace

_REMEDY: Final = (
    "allow its service account to get this one Secret (operator.readableSecrets of the chart, or a "
    "Role of your own), or leave analysis.golden out"
)


class Keys(Protocol):
    """Where keys come from."""

    async def read(self, place: KeyPlace) -> str:
        """The key. Raises NoAnswer."""


class SecretKeys:
    """From Secrets, live: a key that was changed is the new one at once."""

    def __init__(self, get: Callable[[Kind, str, str], Awaitable[Raw | None]]) -> None:
        self._get = get

    async def read(self, place: KeyPlace) -> str:
        """See Keys. Names the place in what it raises, never what is there."""
        found = await self._secret(place)
        if found is None:
            raise NoAnswer(f"{_name(place)} does not exist; create it")
        return _first_line(at(found, "data", place.key), place)

    async def _secret(self, place: KeyPlace) -> Raw | None:
        try:
            return await self._get(SECRET, place.namespace, place.secret)
        except Rejected as error:
            what = f"the operator may not read {_name(place)} ({error.status})"
            raise NoAnswer(f"{what}; {_REMEDY}") from error
        except ClusterError as error:
            raise NoAnswer(f"{_name(place)} cannot be read: {error}") from error


def _name(place: KeyPlace) -> str:
    return f"Secret {place.secret} in namespace {place.namespace}"


def _first_line(encoded: str | None, place: KeyPlace) -> str:
    """Pods take several keys, one a line, from the same text."""
    text = base64.b64decode(encoded or "").decode(errors="replace")
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if not line:
        raise NoAnswer(f"{_name(place)} has nothing under the key {place.key}; add an API key")
    if not (line.isascii() and line.isprintable()):
        raise NoAnswer(
            f"key {place.key} of {_name(place)} begins with no API key; write one a line"
        )
    return line
