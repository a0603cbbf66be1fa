"""The one place that writes to the API server (kopf does the watching).

It speaks plain JSON through the official client's transport and credentials: server-side apply,
live reads, deletions by UID, log tails. The client's generated models are not used: plans and
manifests are our own, and 700 model classes would cost memory for nothing.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any, Final, Protocol, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from pitcrew_operator.errors import Gone, Rejected, Unavailable
from pitcrew_operator.kinds import EVENT, MANAGER, POD, Kind, Raw, kind_of
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.views import Meta

_TIMEOUT_SECONDS: Final = 30
_PAGE: Final = 500
_IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"
_APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
_MERGE: Final = {"Content-Type": "application/merge-patch+json"}
_RETRYABLE: Final = frozenset({408, 409, 429})


class Cluster(Protocol):
    """What reconciliation needs of a cluster. Every method may raise a ClusterError."""

    async def list_all(self, kind: Kind, namespace: str | None) -> tuple[list[Raw], str]:
        """Every object of the kind that concerns us, and the list's resource version."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """One object, read live; None where there is none."""

    async def select(self, kind: Kind, namespace: str, selector: str) -> list[Raw]:
        """Objects by label selector, read live."""

    async def apply(self, manifest: Raw) -> Raw:
        """Server-side apply; the object as it is now."""

    async def apply_status(self, manifest: Raw) -> Raw:
        """Server-side apply of the status subresource. Raises Gone for a deleted object."""

    async def patch(self, kind: Kind, meta: Meta, fields: Raw) -> Raw:
        """Merge fields into this very state of an object; the object as it is now."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete this very object and, behind it, its dependants."""

    async def create_event(self, event: Raw) -> None:
        """Record an Event; a namesake counts as success."""

    async def pod_log(self, namespace: str, pod: str, lines: int) -> str:
        """The last lines of a pod's only container; empty where there is no log (yet)."""


class KubeCluster:
    """A real API server."""

    def __init__(self, client: ApiClient, metrics: Metrics) -> None:
        self._client: Any = client  # its methods bear no types
        self._metrics = metrics

    @classmethod
    async def connect(cls, metrics: Metrics, connections: int) -> Self:
        """Log in as the pod's service account, else through the kubeconfig."""
        settings = Configuration(connection_pool_maxsize=connections)
        await _log_in(settings)
        return cls(ApiClient(settings), metrics)

    async def close(self) -> None:
        """Release the connections."""
        await self._client.close()

    async def list_all(self, kind: Kind, namespace: str | None) -> tuple[list[Raw], str]:
        """See Cluster."""
        items: list[Raw] = []
        query = {"limit": str(_PAGE)} | ({"labelSelector": kind.selector} if kind.selector else {})
        while True:
            page = await self._json("GET", kind, kind.path(namespace), query)
            items += [_typed(kind, item) for item in page.get("items") or ()]
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, metadata.get("resourceVersion") or ""
            query = query | {"continue": metadata["continue"]}

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """See Cluster."""
        try:
            return await self._json("GET", kind, kind.path(namespace, name))
        except Gone:
            return None

    async def select(self, kind: Kind, namespace: str, selector: str) -> list[Raw]:
        """See Cluster."""
        found = await self._json("GET", kind, kind.path(namespace), {"labelSelector": selector})
        return [_typed(kind, item) for item in found.get("items") or ()]

    async def apply(self, manifest: Raw) -> Raw:
        """See Cluster."""
        return await self._apply(manifest, "")

    async def apply_status(self, manifest: Raw) -> Raw:
        """See Cluster."""
        return await self._apply(manifest, "status")

    async def _apply(self, manifest: Raw, subresource: str) -> Raw:
        kind, metadata = kind_of(manifest), manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._json("PATCH", kind, path, query, manifest, _APPLY)

    async def patch(self, kind: Kind, meta: Meta, fields: Raw) -> Raw:
        """See Cluster."""
        # The version makes the server refuse where the object has changed since it was read.
        pinned = {"uid": meta.uid, "resourceVersion": meta.version}
        body = {**fields, "metadata": {**fields.get("metadata", {}), **pinned}}
        path = kind.path(meta.namespace, meta.name)
        return await self._json("PATCH", kind, path, {"fieldManager": MANAGER}, body, _MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """See Cluster."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._json("DELETE", kind, kind.path(namespace, name), body=body)
        except Gone:
            return

    async def create_event(self, event: Raw) -> None:
        """See Cluster."""
        path = EVENT.path(event["metadata"]["namespace"])
        try:
            await self._json("POST", EVENT, path, body=event)
        except Unavailable as error:
            if not str(error).startswith("409"):
                raise

    async def pod_log(self, namespace: str, pod: str, lines: int) -> str:
        """See Cluster."""
        query = {"tailLines": str(lines), "limitBytes": "65536"}
        try:
            body = await self._request("GET", POD, POD.path(namespace, pod, "log"), query)
        except Rejected:
            return ""
        return body.decode(errors="replace")

    async def _json(
        self,
        verb: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Raw | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        answer = await self._request(verb, kind, path, query, body, headers)
        document: dict[str, Any] = json.loads(answer)
        return document

    async def _request(
        self,
        verb: str,
        kind: Kind,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Raw | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One request. Raises Rejected, Gone or Unavailable."""
        code = "error"
        try:
            status, retry_after, answer = await self._send(verb, path, query, body, headers)
            code = str(status)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{verb} {path}: {type(error).__name__}: {error}") from error
        finally:
            self._metrics.api_requests.labels(verb, kind.plural, code).inc()
        if status < 400:
            return answer
        raise _refusal(status, retry_after, answer)

    async def _send(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Raw | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[int, str | None, bytes]:
        all_headers = {**self._client.default_headers, **(headers or {})}
        await self._client.update_params_for_auth(
            all_headers, [], ["BearerToken"], path, verb, body
        )
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            response = await self._client.rest_client.request(
                verb, url, headers=all_headers, body=body
            )
            answer: bytes = await response.read()
        return response.status, response.headers.get("Retry-After"), answer


async def _log_in(settings: Configuration) -> None:
    load: Any = config  # its functions bear no types
    path = os.environ.get("KUBECONFIG")
    if path is None and os.environ.get(_IN_CLUSTER):
        load.load_incluster_config(client_configuration=settings)
    else:
        await load.load_kube_config(config_file=path, client_configuration=settings)


def _refusal(status: int, retry_after: str | None, answer: bytes) -> Rejected | Unavailable:
    message = _message(answer)
    if status in _RETRYABLE or status >= 500:
        patience = float(retry_after) if retry_after and retry_after.isdigit() else None
        return Unavailable(f"{status}: {message}", patience)
    return Gone(status, message) if status == 404 else Rejected(status, message)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:500]


def _typed(kind: Kind, item: Raw) -> Raw:
    """Items of a list come without kind and version; events of a watch have them."""
    return {"apiVersion": kind.api_version, "kind": kind.kind, **item}
