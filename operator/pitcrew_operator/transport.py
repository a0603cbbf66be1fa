"""One way to the API server: credentials, a bounded pool of connections, and errors by our own names.

It knows no resource beyond its path, and repeats nothing: who asks decides whether to ask again.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from pitcrew_operator.errors import Conflict, Gone, Rejected, Unavailable
from pitcrew_operator.kinds import Kind, Raw
from pitcrew_operator.metrics import Metrics

TIMEOUT_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 10.0
_IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"
_RETRYABLE: Final = frozenset({408, 429})


class Transport:
    """Requests to one API server, at most `connections` at a time."""

    def __init__(self, client: ApiClient, metrics: Metrics) -> None:
        self._client: Any = client  # its methods bear no types
        self._metrics = metrics

    @classmethod
    async def connect(cls, metrics: Metrics, connections: int) -> Self:
        """Log in as the pod's service account, else through the kubeconfig."""
        settings = Configuration(
            connection_pool_maxsize=connections,
            # Else it looks for a ~/.netrc and for proxies, in threads, before each request.
            client_session_kwargs={"trust_env": False},
        )
        await _log_in(settings)
        return cls(ApiClient(settings), metrics)

    async def close(self) -> None:
        """Release the connections."""
        await self._client.close()

    async def json(
        self,
        verb: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Raw | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """The answer to one request. Raises as `request` does."""
        answer = await self.request(verb, kind, path, query, body, headers, seconds)
        return parsed(answer, f"{verb} {path}")

    async def request(
        self,
        verb: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Raw | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = TIMEOUT_SECONDS,
    ) -> bytes:
        """One request, given up after so many seconds. Raises Rejected, Gone or Unavailable."""
        code = "error"
        try:
            async with asyncio.timeout(seconds):
                status, retry_after, answer = await self._send(verb, path, query, body, headers)
            code = str(status)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{verb} {path}: {type(error).__name__}: {error}") from error
        finally:
            self._metrics.api_requests.labels(verb, kind.plural, code).inc()
        if status < 400:
            return answer
        raise _refusal(status, retry_after, answer)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """The lines of an answer as they come, each time all there are; for as long as it takes.

        Raises as `request` does; Unavailable too where nothing comes for `silence` seconds.
        """
        limits = aiohttp.ClientTimeout(None, sock_connect=_CONNECT_SECONDS, sock_read=silence)
        response = None
        try:
            response = (await self._open("GET", path, query, limits=limits)).response
            if response.status >= 400:
                retry_after, answer = response.headers.get("Retry-After"), await response.read()
                raise _refusal(response.status, retry_after, answer)
            yield _lines(response.content)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"GET {path}: {type(error).__name__}: {error}") from error
        finally:
            if response is not None:
                response.close()

    async def _send(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Raw | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[int, str | None, bytes]:
        response = await self._open(verb, path, query, body, headers)
        answer: bytes = await response.read()
        return response.status, response.headers.get("Retry-After"), answer

    async def _open(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Raw | None = None,
        headers: Mapping[str, str] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> Any:  # noqa: ANN401 (the client's answers bear no types)
        all_headers = {**self._client.default_headers, **(headers or {})}
        await self._client.update_params_for_auth(
            all_headers, [], ["BearerToken"], path, verb, body
        )
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        return await self._client.rest_client.request(
            verb, url, headers=all_headers, body=body, _request_timeout=limits
        )


def parsed(text: bytes, place: str) -> dict[str, Any]:
    """A JSON object. Raises Unavailable for anything else: a proxy on the way has words of its own."""
    try:
        document = orjson.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        excerpt = text[:100].decode(errors="replace")
        raise Unavailable(f"{place}: something else than a JSON object came: {excerpt!r}")
    return document


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[list[bytes]]:
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines


async def _log_in(settings: Configuration) -> None:
    load: Any = config  # its functions bear no types
    path = os.environ.get("KUBECONFIG")
    if path is None and os.environ.get(_IN_CLUSTER):
        load.load_incluster_config(client_configuration=settings)
    else:
        await load.load_kube_config(config_file=path, client_configuration=settings)


def _refusal(status: int, retry_after: str | None, answer: bytes) -> Rejected | Unavailable:
    message = _message(answer)
    if status == 409:
        return Conflict(f"{status}: {message}")
    if status in _RETRYABLE or status >= 500:
        patience = float(retry_after) if retry_after and retry_after.isdigit() else None
        return Unavailable(f"{status}: {message}", patience)
    return Gone(status, message) if status == 404 else Rejected(status, message)


def _message(answer: bytes) -> str:
    try:
        return str(orjson.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:500]
