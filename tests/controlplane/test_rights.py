"""The operator with the rights that the chart gives it, and no more: two of them, and one leads."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from devcluster.controlplane import ControlPlane
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, LEASE, SERVICE
from tests.controlplane.api import Admin
from tests.controlplane.kubelet import Kubelet
from tests.controlplane.life import is_ready
from tests.controlplane.process import OperatorProcess
from tests.controlplane.rights import give_rights, limited, make_namespaces
from tests.controlplane.test_absence import create
from tests.property.operator.fake_builder import FakeBuilder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await look():  # noqa: ASYNC110 (the API server is asked, not an event)
            await asyncio.sleep(0.1)


async def test_chart_gives_all_the_rights_that_two_operators_need(
    plane: ControlPlane, admin: Admin, tmp_path: Path
) -> None:
    await make_namespaces(admin, "rights")
    token = await give_rights(plane, admin)
    await create(admin, "rights", ENGINE, "tiny", {"model": {"huggingFace": {"repo": "acme/tiny"}}})
    served = {"engineRef": {"name": "tiny"}, "replicas": 1}
    await create(admin, "rights", DEPLOYMENT, "chat", served)
    nodes = asyncio.create_task(Kubelet(admin, FakeBuilder()).run())

    async def holder() -> str:
        lease = await admin.get(LEASE, "system", "pitcrew") or {}
        return str(lease.get("spec", {}).get("holderIdentity", ""))

    async def serves() -> bool:
        return is_ready(await admin.get(DEPLOYMENT, "rights", "chat") or {})

    async def leads(name: str) -> bool:
        return await holder() == name

    try:
        with ExitStack() as standby:
            with OperatorProcess(limited(plane, tmp_path, "first", token)) as first:
                await until(lambda: leads("first"))
                standby.enter_context(OperatorProcess(limited(plane, tmp_path, "second", token)))
                await until(serves)
                first.end(30)
            await until(lambda: leads("second"))
            await admin.merge(DEPLOYMENT, "rights", "chat", {"spec": {"service": {"port": 81}}})

            async def follows() -> bool:
                service = await admin.get(SERVICE, "rights", "chat") or {}
                return bool(service["spec"]["ports"][0]["port"] == 81)

            await until(follows)
    finally:
        nodes.cancel()
        await asyncio.gather(nodes, return_exceptions=True)
        for kind, name in ((DEPLOYMENT, "chat"), (ENGINE, "tiny")):
            await admin.delete(kind, "rights", name)
    assert (
        "forbidden"
        not in (tmp_path / "first.log").read_text() + (tmp_path / "second.log").read_text()
    )
