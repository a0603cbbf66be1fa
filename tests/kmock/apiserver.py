"""The simulated cluster behind HTTP: kmock gives discovery, parsing and streaming.

kmock's own emulator merges plain JSON and knows no server-side apply, versions or selectors, so its
scaffold is used, and the state is that of the property tests.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import kmock

from pitcrew_operator.errors import Conflict, Rejected, Unavailable
from pitcrew_operator.kinds import EVENT, JOB, LEASE, NODE, WATCHED, Kind
from pitcrew_operator.reconcile import utc_now
from pitcrew_operator.views import meta_of
from tests.property.operator.simulation import Object, SimulatedCluster

_META = ("v1/namespaces", "apiextensions.k8s.io/v1/customresourcedefinitions")


class ApiServer:
    """Serves one simulated cluster."""

    def __init__(self) -> None:
        self.cluster = SimulatedCluster(utc_now)
        self.http = kmock.KubernetesScaffold()
        self.away = False
        """Answer every request with 503, as in a restart."""
        self.listings = 0
        self._history: list[tuple[str, Kind, Object]] = []
        self._news = asyncio.Event()
        self.deaf = False
        """Keep what happens from every watch for good, as for one that is too old."""
        self._streams = self._stalled = self._errors = 0
        self._error = 0
        self.cluster.listeners.append(self._hear)
        for path in _META:
            self.http.resources[path].namespaced = False
        self._kinds: list[Kind] = []
        for kind in (*WATCHED, NODE, EVENT, LEASE):
            self.learn(kind)
        self.http.fallback[kmock.action.LIST] << self._list
        self.http.fallback[kmock.action.WATCH] << self._watch
        self.http.fallback[kmock.action.FETCH] << self._fetch
        self.http.fallback[kmock.action.CREATE] << self._create
        self.http.fallback[kmock.action.UPDATE] << self._update
        self.http.fallback[kmock.action.DELETE] << self._delete
        self.http.fallback[kmock.method.PUT] << self._renew

    def stall_watches(self) -> None:
        """The streams that are open say nothing any more, and do not end."""
        self._stalled = self._streams

    @property
    def streams(self) -> int:
        """Watches that were opened so far."""
        return self._streams

    def break_watches(self, code: int) -> None:
        """The streams that are open end with an error."""
        self._errors, self._error = self._streams, code
        self._news.set()

    def _hear(self, change: str, kind: Kind, found: Object) -> None:
        if self.deaf:
            return
        self._history.append((change, kind, found))
        self._news.set()

    def learn(self, kind: Kind) -> None:
        """Serve a kind from now on, as after the creation of its CRD."""
        prefix = f"{kind.group}/" if kind.group else ""
        info = self.http.resources[f"{prefix}{kind.version}/{kind.plural}"]
        info.namespaced, info.kind = kind.namespaced, kind.kind
        info.verbs = {"list", "watch", "get", "patch"}
        self._kinds.append(kind)

    def _kind(self, request: kmock.Request) -> Kind:
        if self.away:
            raise kmock.KubernetesError(status=503, message="restarting")
        found = request.resource
        for kind in self._kinds:
            if found is not None and (found.group, found.plural) == (kind.group, kind.plural):
                return kind
        raise kmock.KubernetesError(status=404, message="no such resource")

    async def _list(self, request: kmock.Request) -> dict[str, Any]:
        kind = self._kind(request)
        self.listings += 1
        items, version = await self.cluster.list_all(kind, None)
        selector = request.params.get("labelSelector", "")
        chosen = [dict(item) for item in items if _matches(dict(item), selector)]
        return {"metadata": {"resourceVersion": version}, "items": chosen}

    async def _watch(self, request: kmock.Request) -> AsyncIterator[bytes | dict[str, Any]]:
        kind = self._kind(request)
        selector = request.params.get("labelSelector", "")
        since = int(request.params.get("resourceVersion", "0"))
        yield b""
        self._streams += 1
        seen, number = 0, self._streams
        while True:
            if number <= self._errors:
                yield {"type": "ERROR", "object": {"kind": "Status", "code": self._error}}
                return
            news, seen = self._history[seen:], len(self._history)
            for change, changed, found in news:
                new = int(found["metadata"]["resourceVersion"]) > since
                if changed is kind and new and _matches(found, selector):
                    yield {"type": change, "object": found}
            await self._more_than(seen, number)

    async def _more_than(self, count: int, number: int) -> None:
        while number <= self._stalled or (len(self._history) == count and number > self._errors):
            self._news.clear()
            await self._news.wait()

    async def _fetch(self, request: kmock.Request) -> bytes | dict[str, Any]:
        kind, name = self._kind(request), request.name or ""
        if request.subresource == "log":
            return (await self.cluster.pod_log(request.namespace or "", name, 20)).encode()
        found = await self.cluster.get(kind, request.namespace or "", name)
        if found is None:
            raise kmock.KubernetesError(status=404, message=f"{name} not found")
        return dict(found)

    async def _create(self, request: kmock.Request) -> dict[str, Any]:
        if self._kind(request) is LEASE:
            if (LEASE, request.data["metadata"]["name"]) in self.cluster.objects:
                raise kmock.KubernetesError(status=409, message="there is one")
            return self.cluster.create(LEASE, request.data)
        assert request.params["fieldManager"] == "pitcrew"
        if self._kind(request) is JOB:
            return await self._make(request.data)
        await self.cluster.create_event(request.data)
        return dict(request.data)

    async def _make(self, job: Object) -> dict[str, Any]:
        if (JOB, job["metadata"]["name"]) in self.cluster.objects:
            raise kmock.KubernetesError(status=409, message="there is one")
        return dict(await self.cluster.apply(job))

    async def _update(self, request: kmock.Request) -> dict[str, Any]:
        kind = self._kind(request)
        assert request.params["fieldManager"] == "pitcrew"
        if request.headers["Content-Type"] == "application/merge-patch+json":
            return await self._merge(kind, request)
        return await self._apply(request)

    async def _renew(self, request: kmock.Request) -> dict[str, Any]:
        assert self._kind(request) is LEASE
        known = self.cluster.objects[LEASE, request.name or ""]
        if known["metadata"]["resourceVersion"] != request.data["metadata"]["resourceVersion"]:
            raise kmock.KubernetesError(status=409, message="changed")
        return self.cluster.update(LEASE, request.name or "", spec=request.data["spec"])

    async def _merge(self, kind: Kind, request: kmock.Request) -> dict[str, Any]:
        pinned = {"name": request.name or "", "namespace": request.namespace}
        meta = meta_of({"metadata": request.data["metadata"] | pinned})
        try:
            return dict(await self.cluster.patch(kind, meta, request.data))
        except Unavailable as error:
            raise kmock.KubernetesError(status=409, message=str(error)) from error

    async def _apply(self, request: kmock.Request) -> dict[str, Any]:
        assert request.headers["Content-Type"] == "application/apply-patch+yaml"
        status = request.subresource == "status"
        apply = self.cluster.apply_status if status else self.cluster.apply
        try:
            return dict(await apply(request.data))
        except Conflict as error:
            raise kmock.KubernetesError(status=409, message=str(error)) from error
        except Rejected as error:
            raise kmock.KubernetesError(status=error.status, message=error.message) from error

    async def _delete(self, request: kmock.Request) -> dict[str, Any]:
        kind, name = self._kind(request), request.name or ""
        uid = request.data["preconditions"]["uid"]
        await self.cluster.delete(kind, request.namespace or "", name, uid)
        return {"kind": "Status", "status": "Success"}


def _matches(found: Object, selector: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    pairs = [part.partition("=") for part in selector.split(",") if part]
    return all(labels.get(key) == value for key, _, value in pairs)
