"""Small requests to pods: bounded in time and size, through no proxy, without redirects."""

import asyncio
import json
from typing import Any, Final

import aiohttp

_LIMIT_BYTES: Final = 1 << 20


class NoAnswer(Exception):
    """Nothing came back that could be used; the message says what happened."""


class Http:
    """A client whose session is opened when it is first needed."""

    def __init__(self, timeout: float = 10.0) -> None:
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Release the connections."""
        if self._session is not None:
            await self._session.close()

    async def text(
        self, url: str, body: object = None, key: str | None = None, more: float = 0.0
    ) -> str:
        """GET, or POST of a JSON body, with an API key if one is given. It may take `more` seconds than
        usual.

        Raises NoAnswer for anything but 200 in time.
        """
        seconds = self._timeout + more
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(url, body, key)
        except TimeoutError as error:
            raise NoAnswer(f"no answer from {url} within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError, UnicodeDecodeError) as error:
            raise NoAnswer(f"{url}: {type(error).__name__}: {error}") from error

    async def json(
        self, url: str, body: object = None, key: str | None = None, more: float = 0.0
    ) -> Any:  # noqa: ANN401 (any JSON value)
        """The same, parsed."""
        text = await self.text(url, body, key, more)
        try:
            return json.loads(text)
        except ValueError as error:
            raise NoAnswer(f"{url} answers with something that is no JSON") from error

    async def _exchange(self, url: str, body: object, key: str | None) -> str:
        if self._session is None:
            # Each answer should come by a connection of its own: a kept one would always lead to
            # the same pod of a Service.
            connector = aiohttp.TCPConnector(force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        verb = "GET" if body is None else "POST"
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with self._session.request(
            verb, url, json=body, headers=headers, allow_redirects=False
        ) as response:
            raw = await response.content.read(_LIMIT_BYTES)
            while len(raw) < _LIMIT_BYTES and (more := await response.content.read(_LIMIT_BYTES)):
                raw += more
            if len(raw) >= _LIMIT_BYTES:
                raise NoAnswer(f"{url} answers with more than {_LIMIT_BYTES} bytes")
            if response.status != 200:
                raise NoAnswer(f"{url} answers {response.status}: {_excerpt(raw, key)}")
            return raw.decode()


def _excerpt(raw: bytes, key: str | None) -> str:
    """Of what may be shown to anybody: a pod that repeats its key must not get it told."""
    text = raw.decode(errors="replace")
    return (text if key is None else text.replace(key, "***"))[:200]
