"""Two whole operators and one Lease."""

import signal
from contextlib import AsyncExitStack
from typing import Any

import pytest

from pitcrew_operator.kinds import LEASE, NODE, WATCHED
from tests.kmock.apiserver import ApiServer
from tests.kmock.conftest import StartOperator
from tests.kmock.test_operator import Eventually, begin, begun, end, served
from tests.unit.operator.factories import succeeded

SETTINGS = {"PITCREW_LEASE": "system/pitcrew", "PITCREW_LEASE_SECONDS": "3"}


def holder(api: ApiServer) -> str:
    lease: dict[str, Any] = api.cluster.objects.get((LEASE, "pitcrew"), {})
    return str(lease.get("spec", {}).get("holderIdentity", ""))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ends", "is killed"])
async def test_standby_goes_on_where_the_leader_left_off(
    api: ApiServer, operator: StartOperator, eventually: Eventually, how: signal.Signals
) -> None:
    async with AsyncExitStack() as standby:
        async with operator(how, PITCREW_IDENTITY="a", **SETTINGS):
            await eventually(lambda: holder(api) == "a")
            await standby.enter_async_context(operator(PITCREW_IDENTITY="b", **SETTINGS))
            begin(api)
            job = await begun(api, eventually)
        end(api, job, succeeded())
        await served(api, eventually)
        assert holder(api) == "b"
    assert api.cluster.created[f"Job/{job['metadata']['name']}"] == 1


async def test_only_the_holder_writes(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    held = {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": {"name": "pitcrew", "namespace": "system"},
        "spec": {"holderIdentity": "another", "leaseDurationSeconds": 3600},
    }
    api.cluster.create(LEASE, held)
    async with operator(PITCREW_IDENTITY="a", **SETTINGS):
        begin(api)
        await eventually(lambda: api.streams >= len((*WATCHED, NODE)))
        assert api.cluster.writes == 0
        api.cluster.update(LEASE, "pitcrew", spec=held["spec"] | {"holderIdentity": ""})
        await begun(api, eventually)
        assert holder(api) == "a"
