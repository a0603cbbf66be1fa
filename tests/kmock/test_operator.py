"""The real operator, kopf and HTTP client included, on a simulated cluster."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pitcrew_operator.kinds import CLAIM, DEPLOYMENT, ENGINE, JOB, SERVICE, WATCHED, WORKLOAD, Kind
from tests.kmock.apiserver import ApiServer
from tests.kmock.conftest import StartOperator
from tests.property.operator.simulation import Object
from tests.unit.operator.factories import (
    NAMESPACE,
    deployment_raw,
    engine_raw,
    failed,
    succeeded,
)

Eventually = Callable[[Callable[[], object]], Awaitable[Any]]


def begin(api: ApiServer) -> None:
    """A user applies the checkpoint's claim, an engine and a deployment."""
    metadata = {"name": "checkpoints", "namespace": NAMESPACE}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {}}
    api.cluster.create(CLAIM, claim)
    api.cluster.create(ENGINE, engine_raw())
    api.cluster.create(DEPLOYMENT, deployment_raw())


def status(api: ApiServer, kind: Kind, name: str) -> dict[str, Any]:
    return api.cluster.objects[kind, name].get("status") or {}


def reason(api: ApiServer, kind: Kind, name: str) -> str:
    conditions = status(api, kind, name).get("conditions", [])
    return next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


def build(api: ApiServer) -> Object | None:
    return next(iter(api.cluster.jobs()), None)


async def finish(api: ApiServer, eventually: Eventually) -> None:
    """The build succeeds and the pods come up."""
    job = await eventually(lambda: build(api))
    if not api.cluster.pods_of(job):
        api.cluster.start_pod(job)
    api.cluster.end_pod(api.cluster.pods_of(job)[0], succeeded(), 0)
    api.cluster.end_job(job, "Complete")
    await eventually(lambda: (WORKLOAD, "chat") in api.cluster.objects)
    api.cluster.roll_out("chat")
    await eventually(lambda: reason(api, DEPLOYMENT, "chat") == "Serving")


async def test_life_from_checkpoint_to_service(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        job = await eventually(lambda: build(api))
        await eventually(lambda: reason(api, DEPLOYMENT, "chat") == "EngineNotReady")
        api.cluster.start_pod(job)
        pod = api.cluster.pods_of(job)[0]["metadata"]["name"]
        api.cluster.logs[pod] = '{"kind":"progress","phase":"Serialize","percent":62}\n'
        await eventually(lambda: status(api, ENGINE, "tiny").get("progress") == "Serialize 62%")
        await finish(api, eventually)
    assert reason(api, ENGINE, "tiny") == "EngineReady"
    assert (SERVICE, "chat") in api.cluster.objects
    assert status(api, DEPLOYMENT, "chat")["url"] == f"http://chat.{NAMESPACE}.svc"
    reasons = [event["reason"] for event in api.cluster.events]
    assert len(reasons) == len(set(reasons))
    assert {"BuildStarting", "EngineReady", "Serving"} <= set(reasons)


async def test_users_objects_are_left_alone(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        await finish(api, eventually)
    for kind, name in ((ENGINE, "tiny"), (DEPLOYMENT, "chat"), (CLAIM, "checkpoints")):
        metadata = api.cluster.objects[kind, name]["metadata"]
        assert not metadata.keys() & {"finalizers", "annotations"}
        assert metadata["generation"] == 1


async def test_operator_that_was_killed_goes_on_where_things_are(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator(signal.SIGKILL):
        begin(api)
        job = await eventually(lambda: build(api))
    api.cluster.start_pod(job)
    api.cluster.end_pod(api.cluster.pods_of(job)[0], succeeded(), 0)
    api.cluster.end_job(job, "Complete")
    async with operator():
        await finish(api, eventually)
    writes, listings = api.cluster.writes, api.listings
    async with operator():
        await eventually(lambda: api.listings >= listings + 2 * len(WATCHED))
    assert api.cluster.writes == writes
    assert api.cluster.created[f"Job/{job['metadata']['name']}"] == 1


async def test_children_that_are_deleted_come_back(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        await finish(api, eventually)
        api.cluster.remove(SERVICE, "chat")
        api.cluster.remove(WORKLOAD, "chat")
        await eventually(lambda: (SERVICE, "chat") in api.cluster.objects)
        await eventually(lambda: (WORKLOAD, "chat") in api.cluster.objects)


async def test_failed_build_is_told_and_a_changed_spec_starts_anew(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        job = await eventually(lambda: build(api))
        api.cluster.start_pod(job)
        api.cluster.end_pod(api.cluster.pods_of(job)[0], failed(), 2)
        api.cluster.end_job(job, "Failed", "PodFailurePolicy")
        await eventually(lambda: reason(api, ENGINE, "tiny") == "CheckpointCorrupt")
        spec = api.cluster.objects[ENGINE, "tiny"]["spec"] | {"shapes": {"maxBatchSize": 1}}
        api.cluster.update(ENGINE, "tiny", spec=spec)
        await eventually(lambda: (JOB, job["metadata"]["name"]) not in api.cluster.objects)
        await finish(api, eventually)


async def test_api_server_that_restarts_is_survived(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        job = await eventually(lambda: build(api))
        api.away = True
        api.cluster.start_pod(job)
        api.cluster.end_pod(api.cluster.pods_of(job)[0], succeeded(), 0)
        api.away = False
        await finish(api, eventually)


@pytest.mark.parametrize("order", [(ENGINE, "tiny"), (DEPLOYMENT, "chat")], ids=["engine", "chat"])
async def test_deletion_in_any_order_leaves_the_operator_well(
    api: ApiServer, operator: StartOperator, eventually: Eventually, order: tuple[Kind, str]
) -> None:
    async with operator():
        begin(api)
        await finish(api, eventually)
        api.cluster.remove(*order)
        for kind, name in ((ENGINE, "tiny"), (DEPLOYMENT, "chat")):
            if (kind, name) in api.cluster.objects:
                api.cluster.remove(kind, name)
        api.cluster.create(ENGINE, engine_raw())
        api.cluster.create(DEPLOYMENT, deployment_raw())
        await finish(api, eventually)
