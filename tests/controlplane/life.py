"""The life of an engine and its deployment, as a user leads it: create, upgrade, roll back, scale, delete.

Each step is one change of a spec and what must be true in the end, whatever happens to the operator in
between.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pitcrew_operator.kinds import CHILDREN, DEPLOYMENT, ENGINE, JOB, POD, SERVICE, WORKLOAD
from pitcrew_operator.views import COMPONENT_LABEL
from tests.controlplane.api import Admin, Object
from tests.property.operator.fake_builder import FakeBuilder

_STEP_SECONDS: Final = 240.0
_OURS: Final = "app.kubernetes.io/managed-by=pitcrew"
_VOLATILE: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]+Z|(?<=-)[0-9a-f]{8,12}\b"
)


class Life:
    """One life, in a namespace of its own."""

    def __init__(self, admin: Admin, builder: FakeBuilder, namespace: str) -> None:
        self._admin, self._builder, self.namespace = admin, builder, namespace
        self.first = self.second = ""

    async def live(self) -> dict[str, Any]:
        """All of it; returns what there was before the end, without what differs each time."""
        await self._create()
        await self._upgrade()
        await self._roll_back()
        await self._scale()
        seen = await self.picture()
        await self._delete()
        return seen

    async def _create(self) -> None:
        await self._admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        spec = {"model": {"huggingFace": {"repo": "acme/tiny"}}}
        await self._admin.create(ENGINE, self.namespace, _object(ENGINE.kind, "tiny", spec))
        spec = {"engineRef": {"name": "tiny"}, "replicas": 2}
        await self._admin.create(DEPLOYMENT, self.namespace, _object(DEPLOYMENT.kind, "chat", spec))
        await self._until("the first engine serves", self._serves(2))
        self.first = await self._served()

    async def _upgrade(self) -> None:
        self._builder.commit = "1" * 40
        await self._admin.merge(
            ENGINE, self.namespace, "tiny", {"spec": {"rebuildPolicy": {"trigger": "again"}}}
        )

        async def upgraded() -> bool:
            return await self._served() not in ("", self.first) and await self._serves(2)()

        await self._until("the second engine serves", upgraded)
        self.second = await self._served()

    async def _roll_back(self) -> None:
        fields = {"spec": {"engineRef": {"version": self.first}}}
        await self._admin.merge(DEPLOYMENT, self.namespace, "chat", fields)

        async def back() -> bool:
            return await self._served() == self.first and await self._serves(2)()

        await self._until("the first engine serves again", back)

    async def _scale(self) -> None:
        await self._admin.merge(DEPLOYMENT, self.namespace, "chat", {"spec": {"replicas": 3}})
        await self._until("three replicas serve", self._serves(3))

    async def _delete(self) -> None:
        await self._admin.delete(DEPLOYMENT, self.namespace, "chat")
        await self._admin.delete(ENGINE, self.namespace, "tiny")

        async def empty() -> bool:
            kinds = (JOB, POD, WORKLOAD, SERVICE)
            left = [await self._admin.list(kind, self.namespace, _OURS) for kind in kinds]
            return not any(left)

        await self._until("nothing is left", empty)

    def _serves(self, replicas: int) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            chat = await self._admin.get(DEPLOYMENT, self.namespace, "chat") or {}
            pods = await self._admin.list(POD, self.namespace, "pitcrew.dev/deployment=chat")
            return is_ready(chat) and len(pods) == replicas

        return look

    async def _served(self) -> str:
        chat = await self._admin.get(DEPLOYMENT, self.namespace, "chat") or {}
        return str(((chat.get("status") or {}).get("engine") or {}).get("id", ""))

    async def _until(self, what: str, look: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                while not await look():  # noqa: ASYNC110 (the API server is asked, not an event)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            seen = await self.picture()
            raise AssertionError(f"it never came true that {what}: {seen}") from None

    async def picture(self) -> dict[str, Any]:
        """What is there, in a form that two lives can be compared by."""
        found: dict[str, Any] = {}
        for kind in (ENGINE, DEPLOYMENT):
            for item in await self._admin.list(kind, self.namespace):
                status = json.dumps(item.get("status")).replace(self.namespace, "*")
                found[f"{kind.kind} {item['metadata']['name']}"] = _settled(json.loads(status))
        for kind in CHILDREN:
            found[kind.plural] = Counter(
                _VOLATILE.sub("*", _described(item))
                for item in await self._admin.list(kind, self.namespace, _OURS)
                if item["metadata"].get("labels", {}).get(COMPONENT_LABEL) != "resolve"
            )
        return found


def differences(one: Any, other: Any, path: str = "") -> list[str]:  # noqa: ANN401 (any JSON value)
    """Where two pictures differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [d for n in names for d in differences(one.get(n), other.get(n), f"{path}/{n}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}/{i}")]
    return [] if one == other else [f"{path}: {one!r} != {other!r}"]


def is_ready(item: Object) -> bool:
    """Whether the resource is Ready for its present spec."""
    status = item.get("status") or {}
    current = status.get("observedGeneration") == item.get("metadata", {}).get("generation")
    return current and any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])
    )


def _object(kind: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": "pitcrew.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def _described(item: Object) -> str:
    """A child by its role, its owner and its spec's outline."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    owners = sorted(f"{o['kind']}" for o in metadata.get("ownerReferences") or ())
    component = metadata.get("labels", {}).get(COMPONENT_LABEL, "")
    return f"{component} of {'+'.join(owners)} replicas={spec.get('replicas')}"


def _settled(status: Any) -> Any:  # noqa: ANN401 (any JSON value)
    """A status without times and names that stand for one life."""
    if isinstance(status, dict):
        volatile = ("uid", "time", "at", "since", "answered", "name", "key", "inputs", "selector")
        # The most that served at a time, of what somebody was there to see.
        volatile = (*volatile, "available")
        return {
            key: _settled(value)
            for key, value in status.items()
            if not key.lower().endswith(volatile)
        }
    if isinstance(status, list):
        return [_settled(each) for each in status]
    return _VOLATILE.sub("*", status) if isinstance(status, str) else status
