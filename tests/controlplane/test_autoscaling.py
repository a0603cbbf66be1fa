"""Autoscaling on a real API server: who may say how many replicas run, and what is remembered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from devcluster.controlplane import ControlPlane
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, POD
from tests.controlplane.api import MERGE, Admin, Object, Refused
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.process import Launch, OperatorProcess, launch
from tests.controlplane.proxy import Proxy
from tests.controlplane.test_absence import create, until
from tests.dcgm import exposition
from tests.property.operator.fake_builder import FakeBuilder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SPACE = "autoscaled"
AUTOSCALING = {
    "maxReplicas": 3,
    "behavior": {
        "scaleUp": {"periodSeconds": 1},
        "scaleDown": {"stabilizationWindowSeconds": 3, "periodSeconds": 1},
    },
}
SERVED = {
    "engineRef": {"name": "tiny"},
    "autoscaling": AUTOSCALING,
    "runtime": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
}


class Exporter:
    """A process that tells of GPUs: the pods of the deployment share a load. None: it tells of nothing."""

    def __init__(self, admin: Admin, namespace: str) -> None:
        self._admin, self._namespace = admin, namespace
        self.load: float | None = None
        self.asked = 0

    async def answer(self, request: web.Request) -> web.Response:
        """At /metrics."""
        self.asked += 1
        names = [pod["metadata"]["name"] for pod in await pods(self._admin, self._namespace)]
        load = self.load
        usage = {} if load is None else {name: min(100.0, load / len(names)) for name in names}
        return web.Response(text=exposition(self._namespace, usage))


async def pods(admin: Admin, namespace: str) -> list[Object]:
    found = await admin.list(POD, namespace, "pitcrew.dev/deployment=chat")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


@asynccontextmanager
async def exporting(admin: Admin, namespace: str) -> AsyncIterator[tuple[Exporter, int]]:
    """The exporter, its port, and a pod that stands for it on this machine."""
    exporter = Exporter(admin, namespace)
    app = web.Application()
    app.router.add_get("/metrics", exporter.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "exporter", "labels": {"app": "nvidia-dcgm-exporter"}},
        "spec": {"containers": [{"name": "exporter", "image": "dcgm"}], "nodeName": "simulated"},
    }
    await admin.create(POD, namespace, pod)
    ready = {"type": "Ready", "status": "True"}
    status = {"status": {"podIP": "127.0.0.1", "conditions": [ready]}}
    path = f"{POD.path(namespace, 'exporter')}/status"
    await admin.call("PATCH", path, status, MERGE)
    try:
        yield exporter, runner.addresses[0][1]
    finally:
        await admin.delete(POD, namespace, "exporter", gracePeriodSeconds=0)
        await runner.cleanup()


@asynccontextmanager
async def world(
    plane: ControlPlane, admin: Admin, directory: Path
) -> AsyncIterator[tuple[Launch, Exporter]]:
    await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}})
    await create(admin, SPACE, ENGINE, "tiny", {"model": {"huggingFace": {"repo": "acme/tiny"}}})
    await create(admin, SPACE, DEPLOYMENT, "chat", SERVED)
    nodes = asyncio.create_task(Kubelet(admin, FakeBuilder()).run())
    try:
        async with exporting(admin, SPACE) as (exporter, port), Proxy(plane) as proxy:
            settings = {"PITCREW_AUTOSCALING_SECONDS": "1", "PITCREW_DCGM_PORT": str(port)}
            yield launch(directory, proxy.address, **settings), exporter
    finally:
        nodes.cancel()
        await asyncio.gather(nodes, return_exceptions=True)
        for kind in (DEPLOYMENT, ENGINE):
            for item in await admin.list(kind, SPACE):
                await admin.delete(kind, SPACE, item["metadata"]["name"])


def serve(admin: Admin, replicas: int) -> Callable[[], Awaitable[bool]]:
    """So many were decided, and serve."""

    async def look() -> bool:
        status = (await admin.get(DEPLOYMENT, SPACE, "chat") or {}).get("status") or {}
        decided = (status.get("autoscaling") or {}).get("desiredReplicas")
        return (decided, status.get("readyReplicas")) == (replicas, replicas) and len(
            await pods(admin, SPACE)
        ) == replicas

    return look


def told(admin: Admin, reason: str) -> Callable[[], Awaitable[bool]]:
    """ScalingActive says so."""

    async def look() -> bool:
        chat = await admin.get(DEPLOYMENT, SPACE, "chat") or {}
        conditions = (chat.get("status") or {}).get("conditions") or ()
        return any((c["type"], c["reason"]) == ("ScalingActive", reason) for c in conditions)

    return look


async def test_the_number_follows_the_load_and_outlives_the_operator(
    plane: ControlPlane, admin: Admin, tmp_path: Path
) -> None:
    async with world(plane, admin, tmp_path) as (how, exporter):
        exporter.load = 40.0
        with OperatorProcess(how):
            await until(serve(admin, 1))
            await until(told(admin, "MetricsFound"))
            exporter.load = 150.0  # 100 % of one, 75 % of each of two
            await until(serve(admin, 2))
        before = {pod["metadata"]["uid"] for pod in await pods(admin, SPACE)}
        exporter.load = None
        with OperatorProcess(how):  # killed, and another one, that never saw the load
            await until(told(admin, "GpuMetricsMissing"))
            assert await serve(admin, 2)()
            assert {pod["metadata"]["uid"] for pod in await pods(admin, SPACE)} == before
            exporter.load = 40.0
            await until(serve(admin, 1))
        chat = await admin.get(DEPLOYMENT, SPACE, "chat") or {}
        assert chat["metadata"]["generation"] == 1
        assert "replicas" not in chat["spec"]
        owned = {
            entry["manager"]
            for entry in chat["metadata"]["managedFields"]
            if "f:spec" in entry["fieldsV1"]
        }
        assert "pitcrew" not in owned


async def refusal(work: Awaitable[Any], status: int = 422) -> str:
    """Why the API server says no."""
    with pytest.raises(Refused) as refused:
        await work
    assert refused.value.status == status
    return str(refused.value)


async def test_one_alone_says_how_many_replicas_run(plane: ControlPlane, admin: Admin) -> None:
    namespace = "autoscaled-or-not"
    await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    both = SERVED | {"replicas": 2}
    why = await refusal(create(admin, namespace, DEPLOYMENT, "both", both))
    assert "autoscaling decides their number" in why
    upside_down = SERVED | {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}
    why = await refusal(create(admin, namespace, DEPLOYMENT, "upside-down", upside_down))
    assert "minReplicas: it is more than maxReplicas" in why
    await create(admin, namespace, DEPLOYMENT, "chat", SERVED)
    found = await admin.get(DEPLOYMENT, namespace, "chat") or {}
    assert found["spec"]["autoscaling"]["minReplicas"] == 1
    assert "replicas" not in found["spec"]
    by_hand = {"spec": {"replicas": 3}}
    why = await refusal(admin.merge(DEPLOYMENT, namespace, "chat", by_hand))
    assert "remove autoscaling to set it by hand" in why
    # As kubectl scale does it, and as an HPA begins.
    scale = f"{DEPLOYMENT.path(namespace, 'chat')}/scale"
    why = await refusal(admin.call("PATCH", scale, by_hand, MERGE))
    assert "remove autoscaling to set it by hand" in why
    why = await refusal(admin.call("GET", scale), 500)
    assert "the spec replicas field" in why
    # The way back: autoscaling goes, and a number comes.
    await admin.merge(DEPLOYMENT, namespace, "chat", {"spec": {"autoscaling": None}})
    scaled = await admin.call("PATCH", scale, by_hand, MERGE)
    assert scaled["spec"]["replicas"] == 3
    await admin.delete(DEPLOYMENT, namespace, "chat")
