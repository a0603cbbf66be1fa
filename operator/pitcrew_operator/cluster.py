"""The one place that writes to the API server (kopf does the watching).

It speaks plain JSON through the official client's transport and credentials: server-side apply,
live reads, deletions by UID, log tails. The client's generated models are not used: plans and
manifests are our own, and 700 model classes would cost memory for nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from pitcrew_operator.errors import Conflict, Gone, Rejected
from pitcrew_operator.kinds import EVENT, JOB, MANAGER, POD, Kind, Raw, kind_of
from pitcrew_operator.slim import slim
from pitcrew_operator.transport import TIMEOUT_SECONDS, Transport
from pitcrew_operator.views import Meta

_PAGE: Final = 100
_APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
_MERGE: Final = {"Content-Type": "application/merge-patch+json"}
# To warn of unknown fields the API server parses all of an applied document twice, as YAML; nobody would
# read the warning, and to apply a field that its schema lacks is an error in any case.
_AS_OURS: Final = {"fieldManager": MANAGER, "fieldValidation": "Ignore"}


Known = Callable[[Raw], Raw]


def as_it_is(raw: Raw) -> Raw:
    """Where nothing is known of any object."""
    return raw


class Cluster(Protocol):
    """What reconciliation needs of a cluster. Every method may raise a ClusterError."""

    async def list_all(
        self, kind: Kind, namespace: str | None, known: Known = as_it_is
    ) -> tuple[list[Raw], str]:
        """Every object of the kind that concerns us, and the list's resource version.

        `known` gives what is held of an object already, so that thousands are not held twice meanwhile.
        """

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """One object, read live; None where there is none."""

    async def select(self, kind: Kind, namespace: str | None, selector: str) -> list[Raw]:
        """Objects by label selector, read live; of all namespaces for None."""

    async def apply(self, manifest: Raw) -> Raw:
        """Server-side apply; the object as it is now. A Job that is there already is left as it is."""

    async def apply_status(self, manifest: Raw) -> Raw:
        """Server-side apply of the status subresource. Raises Gone for a deleted object, and Conflict
        where it is not at the version that the manifest names any more.
        """

    async def patch(self, kind: Kind, meta: Meta, fields: Raw) -> Raw:
        """Merge fields into this very state of an object; the object as it is now."""

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete this very object and, behind it, its dependants."""

    async def create_event(self, event: Raw) -> None:
        """Record an Event; a namesake counts as success."""

    async def pod_log(self, namespace: str, pod: str, lines: int) -> str:
        """The last lines of a pod's only container; empty where there is no log (yet)."""


class KubeCluster:
    """A real API server.

    `permitted` tells for how many seconds more writing is allowed, and raises NotLeader where it is
    not: it is asked before every write, and no write may take longer.
    """

    def __init__(
        self, transport: Transport, permitted: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._transport, self._permitted = transport, permitted

    async def list_all(
        self, kind: Kind, namespace: str | None, known: Known = as_it_is
    ) -> tuple[list[Raw], str]:
        """See Cluster."""
        items: list[Raw] = []
        first = {"limit": str(_PAGE)} | ({"labelSelector": kind.selector} if kind.selector else {})
        query = first
        while True:
            try:
                page = await self._json(kind, kind.path(namespace), query)
            except Rejected as error:
                if error.status != 410 or query is first:
                    raise
                items, query = [], first  # the pages before this one are too old to go on from
                continue
            items += [known(_typed(kind, item)) for item in page.get("items") or ()]
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, metadata.get("resourceVersion") or ""
            query = first | {"continue": metadata["continue"]}

    async def get(self, kind: Kind, namespace: str, name: str) -> Raw | None:
        """See Cluster."""
        try:
            return await self._json(kind, kind.path(namespace, name))
        except Gone:
            return None

    async def select(self, kind: Kind, namespace: str | None, selector: str) -> list[Raw]:
        """See Cluster."""
        found = await self._json(kind, kind.path(namespace), {"labelSelector": selector})
        return [_typed(kind, item) for item in found.get("items") or ()]

    async def apply(self, manifest: Raw) -> Raw:
        """See Cluster."""
        kind = kind_of(manifest)
        return await (self._create(kind, manifest) if kind is JOB else self._apply(manifest, ""))

    async def _create(self, kind: Kind, manifest: Raw) -> Raw:
        """Cheaper than to apply what nobody could apply again: a Job's template is immutable."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        try:
            return await self._write("POST", kind, kind.path(namespace), manifest, _AS_OURS)
        except Conflict:
            known = await self.get(kind, namespace, name)
            if known is None:
                raise
            return known

    async def apply_status(self, manifest: Raw) -> Raw:
        """See Cluster."""
        return await self._apply(manifest, "status")

    async def _apply(self, manifest: Raw, subresource: str) -> Raw:
        kind, metadata = kind_of(manifest), manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"], subresource)
        query = _AS_OURS | {"force": "true"}
        return await self._write("PATCH", kind, path, manifest, query, _APPLY)

    async def contribute(self, kind: Kind, manifest: Raw) -> Raw:
        """Own these fields of an object of others, and no more of it; the object as it is now.

        Raises Conflict where one of them is somebody else's, and where its `metadata.uid` is another's.
        """
        path = kind.path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        return await self._write("PATCH", kind, path, manifest, _AS_OURS, _APPLY)

    async def patch(self, kind: Kind, meta: Meta, fields: Raw) -> Raw:
        """See Cluster."""
        # The version makes the server refuse where the object has changed since it was read.
        pinned = {"uid": meta.uid, "resourceVersion": meta.version}
        body = {**fields, "metadata": {**fields.get("metadata", {}), **pinned}}
        path = kind.path(meta.namespace, meta.name)
        return await self._write("PATCH", kind, path, body, _AS_OURS, _MERGE)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """See Cluster."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._write("DELETE", kind, kind.path(namespace, name), body)
        except Gone:
            return

    async def create_event(self, event: Raw) -> None:
        """See Cluster."""
        path = EVENT.path(event["metadata"]["namespace"])
        try:
            await self._write("POST", EVENT, path, event, _AS_OURS)
        except Conflict:
            return

    async def pod_log(self, namespace: str, pod: str, lines: int) -> str:
        """See Cluster."""
        query = {"tailLines": str(lines), "limitBytes": "65536"}
        try:
            body = await self._transport.request("GET", POD, POD.path(namespace, pod, "log"), query)
        except Rejected:
            return ""
        return body.decode(errors="replace")

    async def _json(
        self, kind: Kind, path: str, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return await self._transport.json("GET", kind, path, query)

    async def _write(
        self,
        verb: str,
        kind: Kind,
        path: str,
        body: Raw,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        seconds = min(TIMEOUT_SECONDS, self._permitted())
        return await self._transport.json(verb, kind, path, query, body, headers, seconds)


def _typed(kind: Kind, item: Raw) -> Raw:
    """Items of a list come without kind and version; events of a watch have them.

    They are made slim at once: of a thousand the parts that nobody reads would all be held at a time.
    """
    return slim(kind, {"apiVersion": kind.api_version, "kind": kind.kind, **item})
