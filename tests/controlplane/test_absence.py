"""What happens while the operator, or the API server, is away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devcluster.controlplane import ControlPlane
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, JOB, POD, SERVICE, WORKLOAD, Kind
from tests.controlplane.api import Admin, Object
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.life import is_ready
from tests.controlplane.process import Launch, OperatorProcess, launch
from tests.controlplane.proxy import Proxy
from tests.property.operator.fake_builder import FakeBuilder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_RETURNS = 3
"""Times that the operator comes back: the first may have to end what the one before it began."""


@asynccontextmanager
async def world(
    plane: ControlPlane, admin: Admin, directory: Path, namespace: str
) -> AsyncIterator[tuple[Launch, Proxy]]:
    """A namespace with an engine and a deployment, and simulated nodes."""
    await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    await create(
        admin, namespace, ENGINE, "tiny", {"model": {"huggingFace": {"repo": "acme/tiny"}}}
    )
    served = {"engineRef": {"name": "tiny"}, "replicas": 2}
    await create(admin, namespace, DEPLOYMENT, "chat", served)
    nodes = asyncio.create_task(Kubelet(admin, FakeBuilder()).run())
    try:
        async with Proxy(plane) as proxy:
            yield launch(directory, proxy.address), proxy
    finally:
        nodes.cancel()
        await asyncio.gather(nodes, return_exceptions=True)
        for kind in (DEPLOYMENT, ENGINE):
            for item in await admin.list(kind, namespace):
                await admin.delete(kind, namespace, item["metadata"]["name"])


async def create(admin: Admin, namespace: str, kind: Kind, name: str, spec: Object) -> None:
    document = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    await admin.create(kind, namespace, document)


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(180):
        while not await look():  # noqa: ASYNC110 (the API server is asked, not an event)
            await asyncio.sleep(0.1)


def serves(admin: Admin, namespace: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        chat = await admin.get(DEPLOYMENT, namespace, "chat")
        pods = await admin.list(POD, namespace, "pitcrew.dev/deployment=chat")
        going = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return chat is not None and is_ready(chat) and len(going) == 2

    return look


async def test_pods_and_children_that_die_while_the_operator_is_away(
    plane: ControlPlane, admin: Admin, tmp_path: Path
) -> None:
    async with world(plane, admin, tmp_path, "away") as (how, proxy):
        with OperatorProcess(how):
            await until(serves(admin, "away"))
        for kind in (POD, SERVICE, WORKLOAD, JOB):
            selector = "app.kubernetes.io/managed-by=pitcrew"
            for item in await admin.list(kind, "away", selector):
                options = {"propagationPolicy": "Background"} if kind is not POD else {}
                await admin.delete(kind, "away", item["metadata"]["name"], **options)
        with OperatorProcess(how):
            await until(lambda: _exists(admin, SERVICE, "away", "chat"))
            await until(serves(admin, "away"))
            engine = await admin.get(ENGINE, "away", "tiny")
            assert engine is not None
            assert is_ready(engine)
        builds = await admin.list(JOB, "away", "app.kubernetes.io/component=build")
        assert not builds, "a proven engine is not built again"
        for _ in range(_RETURNS):
            writes = proxy.writes
            with OperatorProcess(how) as again:
                listings = proxy.requests["GET", "llmengines"]
                await until(lambda before=listings: _more(proxy, before + 2))
                assert again.is_running
            if proxy.writes == writes:
                break
        else:
            pytest.fail("an operator that comes back to a world in order writes")


async def _exists(admin: Admin, kind: Kind, namespace: str, name: str) -> bool:
    return await admin.get(kind, namespace, name) is not None


async def _more(proxy: Proxy, listings: int) -> bool:
    return proxy.requests["GET", "llmengines"] > listings


async def test_api_server_that_is_killed_is_survived(
    plane: ControlPlane, admin: Admin, tmp_path: Path
) -> None:
    async with world(plane, admin, tmp_path, "outage") as (how, _):
        with OperatorProcess(how) as operator:
            await until(serves(admin, "outage"))
            plane.apiserver.restart()  # in this thread: what another one starts ends with it
            await asyncio.to_thread(plane.wait)
            await admin.merge(DEPLOYMENT, "outage", "chat", {"spec": {"service": {"port": 81}}})

            async def follows() -> bool:
                service = await admin.get(SERVICE, "outage", "chat") or {}
                return bool(service["spec"]["ports"][0]["port"] == 81)

            await until(follows)
            assert operator.is_running
