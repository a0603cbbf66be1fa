"""API keys: who may ask, compared so that the clock tells nothing."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from pitcrew_runtime.errors import Unauthorized
from pitcrew_runtime.server import problems

KEY_NUMBER = "pitcrew.key"
"""Where a request's scope tells which of the keys it was sent with."""
_OPEN = ("/health/", "/v2/health/")
"""Probes and scrapers have no keys."""
_OPEN_PATHS = frozenset({"/metrics", "/version"})


class Keyring:
    """The keys of one server. An empty one lets everybody in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # Digests are of one length: a comparison does not even tell how long a key is.
        self._digests = [_digest(key.encode()) for key in sorted(set(keys))]

    @property
    def locked(self) -> bool:
        """A key is needed."""
        return bool(self._digests)

    def number(self, authorization: bytes) -> int:
        """Which key `Bearer <key>` holds, counted from 1; 0 where none is asked for.

        Every key is compared, each in constant time. Raises `Unauthorized`.
        """
        if not self._digests:
            return 0
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip())
        same = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != b"bearer" or not any(same):
            raise Unauthorized("send a valid API key as `Authorization: Bearer <key>`")
        return same.index(True) + 1


class KeyCheck:
    """Asks for a key everywhere but at health, metrics and version."""

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or go on."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            headers = dict(scope["headers"])
            try:
                scope[KEY_NUMBER] = self._keyring.number(headers.get(b"authorization", b""))
            except Unauthorized as error:
                await problems.response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def tenant(scope: Scope, salt: str | None) -> str:
    """Whose prefixes may be shared: those of one API key, and of one salt where a client has more
    to keep apart.
    """
    return tenant_name(key_number(scope), salt)


def key_number(scope: Scope) -> int:
    """Of the API key that a request came with; 0 where none is needed."""
    number: int = scope.get(KEY_NUMBER, 0)
    return number


def tenant_name(key: int, salt: str | None = None) -> str:
    """The tenant of a key's number and a salt."""
    return f"{key}:{salt or ''}"


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
