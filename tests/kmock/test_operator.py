"""The real operator, kopf and HTTP client included, on a simulated cluster."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pitcrew_operator.kinds import (
    CLAIM,
    DEPLOYMENT,
    ENGINE,
    JOB,
    NODE,
    SERVICE,
    WATCHED,
    WORKLOAD,
    Kind,
)
from tests.kmock.apiserver import ApiServer
from tests.kmock.conftest import StartOperator
from tests.property.operator.simulation import Object
from tests.unit.operator.factories import (
    NAMESPACE,
    deployment_raw,
    engine_raw,
    failed,
    resolved,
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


def going(api: ApiServer, component: str) -> Object | None:
    """A Job that has come to no end and does not wait for its turn."""
    jobs = [job for job in api.cluster.jobs(component) if not job["spec"].get("suspend")]
    return next((j for j in jobs if not j.get("status", {}).get("conditions")), None)


async def begun(api: ApiServer, eventually: Eventually, **answer: object) -> Object:
    """The builder answers what it would make; the Job that makes it."""
    look = await eventually(lambda: going(api, "resolve"))
    end(api, look, resolved(**answer))
    job: Object = await eventually(lambda: going(api, "build"))
    return job


def end(api: ApiServer, job: Object, words: str) -> None:
    """The Job's pod ends well, with these last words."""
    if not api.cluster.pods_of(job):
        api.cluster.start_pod(job)
    api.cluster.end_pod(api.cluster.pods_of(job)[0], words, 0)
    api.cluster.end_job(job, "Complete")


async def finish(api: ApiServer, eventually: Eventually, job: Object | None = None) -> None:
    """The build succeeds and the pods come up."""
    end(api, job or await begun(api, eventually), succeeded())
    await served(api, eventually)


async def served(api: ApiServer, eventually: Eventually) -> None:
    """The pods come up."""
    await eventually(api.cluster.workloads)
    api.cluster.roll_out(api.cluster.workloads()[0])
    await eventually(lambda: reason(api, DEPLOYMENT, "chat") == "Serving")


async def test_life_from_checkpoint_to_service(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        job = await begun(api, eventually)
        await eventually(lambda: reason(api, DEPLOYMENT, "chat") == "EngineNotReady")
        api.cluster.start_pod(job)
        pod = api.cluster.pods_of(job)[0]["metadata"]["name"]
        api.cluster.logs[pod] = '{"kind":"progress","phase":"Serialize","percent":62}\n'
        await eventually(lambda: status(api, ENGINE, "tiny").get("progress") == "Serialize 62%")
        await finish(api, eventually, job)
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
        job = await begun(api, eventually)
    end(api, job, succeeded())
    async with operator():
        await served(api, eventually)
    writes, streams = api.cluster.writes, api.streams
    async with operator():
        await eventually(lambda: api.streams >= streams + len((*WATCHED, NODE)))
    assert api.cluster.writes == writes
    assert api.cluster.created[f"Job/{job['metadata']['name']}"] == 1


async def test_children_that_are_deleted_come_back(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        await finish(api, eventually)
        api.cluster.remove(SERVICE, "chat")
        (workload,) = api.cluster.workloads()
        api.cluster.remove(WORKLOAD, workload["metadata"]["name"])
        await eventually(lambda: (SERVICE, "chat") in api.cluster.objects)
        await eventually(api.cluster.workloads)


async def test_failed_build_is_told_and_a_changed_spec_starts_anew(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        job = await begun(api, eventually)
        api.cluster.start_pod(job)
        api.cluster.end_pod(api.cluster.pods_of(job)[0], failed(), 2)
        api.cluster.end_job(job, "Failed", "PodFailurePolicy")
        await eventually(lambda: reason(api, ENGINE, "tiny") == "CheckpointCorrupt")
        spec = api.cluster.objects[ENGINE, "tiny"]["spec"] | {"shapes": {"maxBatchSize": 1}}
        api.cluster.update(ENGINE, "tiny", spec=spec)
        other = {"key": "d" * 64, "engineId": "d" * 64, "tag": "tiny-d"}
        again = await begun(api, eventually, **other)
        assert again["metadata"]["name"] != job["metadata"]["name"]
        end(api, again, succeeded(engineId="d" * 64, tag="tiny-d"))
        await served(api, eventually)
    phases = [version["phase"] for version in status(api, ENGINE, "tiny")["versions"]]
    assert phases == ["Ready", "Failed"]


async def test_engines_of_one_identity_share_a_build_and_wait_in_line_for_others(
    api: ApiServer,
    operator: StartOperator,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PITCREW_MAX_PARALLEL_BUILDS", "1")
    other = {"key": "d" * 64, "engineId": "d" * 64, "tag": "other-d", "model": "other"}
    async with operator():
        begin(api)
        job = await begun(api, eventually)
        api.cluster.create(ENGINE, engine_raw() | {"metadata": named("twin")})
        end(api, await eventually(lambda: going(api, "resolve")), resolved())
        name = job["metadata"]["name"]
        await eventually(lambda: len(owners(api, name)) == 2)
        api.cluster.create(ENGINE, engine_raw() | {"metadata": named("other")})
        end(api, await eventually(lambda: going(api, "resolve")), resolved(**other))
        await eventually(lambda: reason(api, ENGINE, "other") == "Queued")
        assert [j["metadata"]["name"] for j in api.cluster.jobs() if not j["spec"]["suspend"]] == [
            name
        ]
        end(api, job, succeeded())
        for engine in ("tiny", "twin"):
            await eventually(lambda engine=engine: reason(api, ENGINE, engine) == "EngineReady")
        turn = await eventually(lambda: going(api, "build"))
        assert turn["metadata"]["name"].startswith("other-build-")
    assert api.cluster.created[f"Job/{name}"] == 1


def named(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE}


def owners(api: ApiServer, job: str) -> list[Any]:
    found: list[Any] = api.cluster.objects[JOB, job]["metadata"]["ownerReferences"]
    return found


async def test_other_drivers_lead_to_the_next_engine_while_the_last_one_serves(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    plan = {
        "target": "tensorrt",
        "precision": "bf16",
        "tensorrt": {"computeCapability": "sm90"},
    }
    async with operator():
        begin(api)
        api.cluster.create(NODE, gpu_node("old", driver=575, cuda=12))
        api.cluster.create(ENGINE, engine_raw(plan) | {"metadata": named("plan")})
        looks = [await eventually(lambda: look_of(api, "plan"))]
        first = {"key": "1" * 64, "engineId": "1" * 64, "tag": "plan-1", "model": "plan"}
        end(api, looks[0], resolved(**first))
        job = await eventually(lambda: build_of(api, "plan-build-"))
        end(api, job, succeeded(engineId="1" * 64, tag="plan-1"))
        await eventually(lambda: reason(api, ENGINE, "plan") == "EngineReady")
        api.cluster.create(NODE, gpu_node("new", driver=580, cuda=13))
        look = await eventually(lambda: look_of(api, "plan"))
        second = {"key": "2" * 64, "engineId": "2" * 64, "tag": "plan-2", "model": "plan"}
        end(api, look, resolved(**second))
        await eventually(lambda: condition(api, "plan", "UpToDate") == ("False", "CudaDrift"))
        assert condition(api, "plan", "Ready") == ("True", "EngineReady")
        job = await eventually(lambda: build_of(api, "plan-build-"))
        selector = job["spec"]["template"]["spec"]["nodeSelector"]
        assert selector["nvidia.com/cuda.driver.major"] == "580"
        end(api, job, succeeded(engineId="2" * 64, tag="plan-2"))
        await eventually(lambda: condition(api, "plan", "UpToDate") == ("True", "UpToDate"))
    told = status(api, ENGINE, "plan")
    assert (told["current"], told["previous"]) == ("2" * 64, "1" * 64)


def gpu_node(name: str, driver: int, cuda: int) -> dict[str, Any]:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
        "nvidia.com/gpu.memory": "81559",
        "nvidia.com/gpu.count": "8",
        "nvidia.com/gpu.compute.major": "9",
        "nvidia.com/gpu.compute.minor": "0",
        "nvidia.com/cuda.driver.major": str(driver),
        "nvidia.com/cuda.runtime.major": str(cuda),
        "nvidia.com/cuda.runtime.minor": "0",
    }
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}}


def look_of(api: ApiServer, engine: str) -> Object | None:
    jobs = api.cluster.jobs("resolve")
    mine = [j for j in jobs if j["metadata"]["labels"]["pitcrew.dev/engine"] == engine]
    return next((j for j in mine if not j.get("status", {}).get("conditions")), None)


def build_of(api: ApiServer, prefix: str) -> Object | None:
    jobs = [j for j in api.cluster.jobs() if j["metadata"]["name"].startswith(prefix)]
    return next((j for j in jobs if not j.get("status", {}).get("conditions")), None)


def condition(api: ApiServer, engine: str, kind: str) -> tuple[str, str]:
    conditions = status(api, ENGINE, engine).get("conditions", [])
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == kind), ("", ""))


async def test_api_server_that_restarts_is_survived(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator():
        begin(api)
        job = await begun(api, eventually)
        api.away = True
        end(api, job, succeeded())
        api.away = False
        await served(api, eventually)


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
