"""Simulated nodes: every pod of the operator's is bound, runs, and ends as its kind of pod does.

Pods of build Jobs end at once, with the words that a builder would leave; pods that serve become ready and
stay. A pod that is deleted goes at once. Controllers, the garbage collector and the API server are
real; what is simulated is the scheduler, the kubelet and the containers.
"""

import asyncio
import itertools
from typing import Any

from pitcrew_operator.kinds import NODE, POD
from pitcrew_operator.manifests.builder_job import BUILD, RESOLVE
from pitcrew_operator.views import COMPONENT_LABEL
from tests.controlplane.api import MERGE, Admin, Object, Refused
from tests.property.operator.fake_builder import FakeBuilder

_SELECTOR = "app.kubernetes.io/managed-by=pitcrew"
_STARTED = "2026-11-01T12:00:00Z"
_NODE = "simulated"


class Kubelet:
    """Plays all nodes at once."""

    def __init__(self, admin: Admin, builder: FakeBuilder, parallel: int = 16) -> None:
        self._admin, self._builder = admin, builder
        self._slots = asyncio.Semaphore(parallel)
        self._done: dict[str, str] = {}
        self._addresses = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow the pods until cancelled, and leave nothing behind that goes on."""
        await self._join()
        try:
            while True:
                await self._follow()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        async for change, pod in self._admin.watch(POD, None, _SELECTOR):
            if change == "DELETED":
                self._done.pop(pod["metadata"]["uid"], None)
            elif (step := self._next(pod)) is not None:
                self._begin(pod, step)

    async def _join(self) -> None:
        """The one node of all pods: what is said to be on none gets no EndpointSlice."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NODE}}
        try:
            await self._admin.call("POST", NODE.path(None), node)
        except Refused as error:
            if error.status != 409:
                raise

    def _next(self, pod: Object) -> str | None:
        """What to do with it; None where that was done already."""
        uid = pod["metadata"]["uid"]
        step = "remove" if pod["metadata"].get("deletionTimestamp") else "start"
        if self._done.get(uid) in (step, "remove"):
            return None
        self._done[uid] = step
        return step

    def _begin(self, pod: Object, step: str) -> None:
        work = self._remove(pod) if step == "remove" else self._start(pod)
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, pod: Object) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": _NODE},
        }
        path = POD.path(namespace, name)
        async with self._slots:
            try:
                if not pod["spec"].get("nodeName"):
                    await self._admin.call("POST", f"{path}/binding", binding)
                status = {"status": self._status(pod)}
                await self._admin.call("PATCH", f"{path}/status", status, MERGE)
            except Refused as error:
                if error.status not in (404, 409):
                    raise

    async def _remove(self, pod: Object) -> None:
        async with self._slots:
            metadata = pod["metadata"]
            await self._admin.delete(
                POD, metadata["namespace"], metadata["name"], gracePeriodSeconds=0
            )

    def _status(self, pod: Object) -> Object:
        component = pod["metadata"]["labels"].get(COMPONENT_LABEL)
        container = pod["spec"]["containers"][0]
        base = {"name": container["name"], "image": container["image"], "imageID": ""}
        if component == "runtime":
            return self._serving(base)
        return _ended(base, self._words(component, pod))

    def _words(self, component: str | None, pod: Object) -> str:
        job = {"spec": {"template": {"spec": pod["spec"]}}}
        if component == RESOLVE:
            return self._builder.resolve(job)
        return self._builder.build(job)[0] if component == BUILD else ""

    def _serving(self, base: Object) -> Object:
        number = next(self._addresses)
        address = f"10.{244 + number // 65536}.{number // 256 % 256}.{number % 256}"
        running = {"state": {"running": {"startedAt": _STARTED}}, "ready": True, "restartCount": 0}
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": _STARTED}
            for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ]
        return {
            "phase": "Running",
            "conditions": conditions,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": _STARTED,
            "containerStatuses": [base | running],
        }


def _ended(base: Object, words: str) -> Object:
    terminated: dict[str, Any] = {
        "exitCode": 0,
        "reason": "Completed",
        "message": words,
        "startedAt": _STARTED,
        "finishedAt": _STARTED,
    }
    state = {"state": {"terminated": terminated}, "ready": False, "restartCount": 0}
    return {
        "phase": "Succeeded",
        "startTime": _STARTED,
        "containerStatuses": [base | state],
    }
