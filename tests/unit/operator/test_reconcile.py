"""One pass against a cluster in memory: what cannot be done is told, and never stops the rest."""

from datetime import timedelta
from typing import Any

import pytest

from pitcrew_operator import reasons
from pitcrew_operator.dispatch import concerned
from pitcrew_operator.errors import Rejected, Unavailable
from pitcrew_operator.kinds import CLAIM, DEPLOYMENT, ENGINE, JOB, POD, SERVICE, WATCHED, Kind, Raw
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.perform import event_manifest
from pitcrew_operator.plan.actions import Emit
from pitcrew_operator.reconcile import Key, Reconciler
from pitcrew_operator.store import Store
from pitcrew_operator.views import meta_of
from pitcrew_operator.workqueue import RetryLater
from tests.property.operator.fake_asker import FakeAsker
from tests.property.operator.simulation import SimulatedCluster
from tests.property.operator.world import Crowd
from tests.unit.operator.factories import (
    CONFIG,
    ENGINE_STATUS,
    NAMESPACE,
    NOW,
    deployment_raw,
    engine_raw,
    resolved,
    succeeded,
)

ENGINE_KEY = Key(ENGINE, NAMESPACE, "tiny")
DEPLOYMENT_KEY = Key(DEPLOYMENT, NAMESPACE, "chat")


class RefusingCluster(SimulatedCluster):
    """Refuses to apply some kinds, as admission, quota or RBAC would."""

    def __init__(self, refusals: dict[Kind, Rejected] | None = None) -> None:
        super().__init__()
        self.refusals = refusals or {}

    async def apply(self, manifest: Raw) -> Raw:
        for kind, refusal in self.refusals.items():
            if manifest["kind"] == kind.kind:
                raise refusal
        return await super().apply(manifest)


class Bench:
    """A reconciler over a cluster whose watches are instant."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.heard: set[Key] = set()
        self.store = Store(self._changed)
        self.now = NOW
        self.crowd = Crowd(self.heard.add)
        self.reconciler = Reconciler(
            *(cluster, self.store, CONFIG, Metrics(), FakeAsker(), lambda: self.now),
            patience=self.crowd,
        )
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": {}}
        for name in ("checkpoints", CONFIG.store_claim):
            cluster.create(CLAIM, claim | {"metadata": {"name": name, "namespace": NAMESPACE}})

    def _changed(self, kind: Kind, raw: Raw) -> None:
        self.heard.update(concerned(kind, raw, self.store, CONFIG))

    async def reconcile(self, key: Key) -> float | None:
        for kind in WATCHED:
            self.store.replace(kind, *await self.cluster.list_all(kind, None), None)
        return await self.reconciler.reconcile(key)

    async def begin_build(self) -> None:
        """The first passes: a look at the sources, its answer, the build's Job."""
        await self.reconcile(ENGINE_KEY)
        (look,) = self.cluster.jobs("resolve")
        self.cluster.start_pod(look)
        self.cluster.end_pod(self.cluster.pods_of(look)[0], resolved(), 0)
        self.cluster.end_job(look, "Complete")
        await self.reconcile(ENGINE_KEY)
        await self.reconcile(ENGINE_KEY)

    def condition(self, key: Key, kind: str) -> tuple[str, str, str]:
        """Status, reason and message of a condition."""
        conditions = self.cluster.objects[key.kind, key.name]["status"]["conditions"]
        (found,) = [c for c in conditions if c["type"] == kind]
        return found["status"], found["reason"], found["message"]

    def ready(self, key: Key) -> tuple[str, str, str]:
        """Type of the true condition, its reason, and the message of Ready."""
        conditions = self.cluster.objects[key.kind, key.name]["status"]["conditions"]
        (true,) = [c for c in conditions if c["status"] == "True"]
        message = next(c["message"] for c in conditions if c["type"] == "Ready")
        return true["type"], true["reason"], message


async def test_refused_job_is_told_with_the_words_of_the_api_server() -> None:
    bench = Bench(RefusingCluster({JOB: Rejected(422, "nodeSelector: Invalid value: '~'")}))
    bench.cluster.create(ENGINE, engine_raw())
    with pytest.raises(RetryLater):
        await bench.reconcile(ENGINE_KEY)
    health, reason, message = bench.ready(ENGINE_KEY)
    assert (health, reason) == ("Stalled", reasons.REJECTED)
    assert "nodeSelector: Invalid value" in message


async def test_quota_is_awaited_rather_than_final() -> None:
    bench = Bench(RefusingCluster({SERVICE: Rejected(403, "exceeded quota: small")}))
    bench.cluster.create(ENGINE, engine_raw(status={"engine": ENGINE_STATUS}))
    bench.cluster.create(DEPLOYMENT, deployment_raw())
    with pytest.raises(RetryLater):
        await bench.reconcile(DEPLOYMENT_KEY)
    health, reason, message = bench.ready(DEPLOYMENT_KEY)
    assert (health, reason) == ("Reconciling", reasons.FORBIDDEN)
    assert "exceeded quota" in message
    bench.cluster.refusals = {}  # type: ignore[attr-defined]
    await bench.reconcile(DEPLOYMENT_KEY)
    assert bench.ready(DEPLOYMENT_KEY)[1] == reasons.ROLLING_OUT


async def test_an_engine_that_serves_stays_ready_where_its_next_look_is_forbidden() -> None:
    bench = Bench(RefusingCluster())
    bench.cluster.create(ENGINE, engine_raw({"rebuildPolicy": {"pollSeconds": 60}}))
    await bench.begin_build()
    (build,) = bench.cluster.jobs("build")
    bench.cluster.start_pod(build)
    bench.cluster.end_pod(bench.cluster.pods_of(build)[0], succeeded(), 0)
    bench.cluster.end_job(build, "Complete")
    await bench.reconcile(ENGINE_KEY)
    assert bench.condition(ENGINE_KEY, "Ready")[:2] == ("True", reasons.ENGINE_READY)
    (look,) = bench.cluster.jobs("resolve")
    bench.cluster.remove(JOB, look["metadata"]["name"])
    refusal = Rejected(403, "exceeded quota: count/jobs.batch")
    bench.cluster.refusals[JOB] = refusal  # type: ignore[attr-defined]
    bench.now += timedelta(minutes=5)
    with pytest.raises(RetryLater):
        await bench.reconcile(ENGINE_KEY)
    assert bench.condition(ENGINE_KEY, "Ready")[:2] == ("True", reasons.ENGINE_READY)
    status, reason, message = bench.condition(ENGINE_KEY, "UpToDate")
    assert (status, reason) == ("Unknown", reasons.FORBIDDEN)
    assert "exceeded quota" in message
    writes = bench.cluster.writes
    with pytest.raises(RetryLater):
        await bench.reconcile(ENGINE_KEY)
    assert bench.cluster.writes == writes
    bench.cluster.refusals.clear()  # type: ignore[attr-defined]
    await bench.reconcile(ENGINE_KEY)
    assert bench.cluster.jobs("resolve")


async def test_api_server_that_is_away_is_retried_and_not_told() -> None:
    cluster = SimulatedCluster()
    bench = Bench(cluster)
    cluster.create(ENGINE, engine_raw())
    cluster.refuse_after = 0
    with pytest.raises(RetryLater):
        await bench.reconcile(ENGINE_KEY)
    assert "conditions" not in cluster.objects[ENGINE, "tiny"]["status"]


BAD_SPECS: list[tuple[dict[str, Any], str]] = [
    ({"model": {}}, "exactly one of"),
    ({"model": {"volume": {"claimName": "c", "path": "p"}, "huggingFace": {"repo": "a/b"}}},
     "exactly one of"),
    ({"model": {"volume": {"claimName": "c"}}}, "spec.model.volume.path"),
    ({"model": None}, "spec.model"),
    ({"precision": "fp7"}, "spec.precision"),
    ({"shapes": {"maxBatchSize": 0}}, "spec.shapes.maxBatchSize"),
    ({"shapes": {"maxBatchSize": 10**30}}, "spec.shapes.maxBatchSize"),
    ({"shapes": "big"}, "spec.shapes"),
    ({"build": {"resources": {"requests": ["cpu"]}}}, "spec.build.resources.requests"),
    ({"build": {"surprise": True}}, "spec.build.surprise"),
    ({"parallelism": {"tensor": 32, "pipeline": 4}}, "128 ranks"),
    ({"store": {"claimName": "Ünïcode"}}, "spec.store.claimName"),
    ({"model": {"volume": {"claimName": "c", "path": "a\n/../b"}}}, "spec.model.volume.path"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "hint"), BAD_SPECS)
async def test_spec_that_slipped_through_admission_is_told(spec: dict[str, Any], hint: str) -> None:
    bench = Bench(SimulatedCluster())
    bench.cluster.create(ENGINE, engine_raw(spec))
    await bench.reconcile(ENGINE_KEY)
    health, reason, message = bench.ready(ENGINE_KEY)
    assert (health, reason) == ("Stalled", reasons.INVALID_SPEC)
    assert hint in message
    assert not bench.cluster.jobs("resolve")
    writes = bench.cluster.writes
    await bench.reconcile(ENGINE_KEY)
    assert bench.cluster.writes == writes


async def test_unreadable_status_is_written_anew() -> None:
    bench = Bench(SimulatedCluster())
    bench.cluster.create(ENGINE, engine_raw(status={"conditions": "none", "engine": 3}))
    await bench.reconcile(ENGINE_KEY)
    assert bench.ready(ENGINE_KEY)[1] == reasons.RESOLVING


async def test_deployment_hears_of_its_engine_at_once() -> None:
    bench = Bench(SimulatedCluster())
    bench.cluster.create(ENGINE, engine_raw())
    bench.cluster.create(DEPLOYMENT, deployment_raw())
    await bench.reconcile(DEPLOYMENT_KEY)
    bench.heard.clear()
    await bench.reconciler.reconcile(ENGINE_KEY)
    assert DEPLOYMENT_KEY in bench.heard


async def test_in_a_crowd_children_come_first_and_words_later() -> None:
    bench = Bench(SimulatedCluster())
    bench.cluster.create(ENGINE, engine_raw())
    bench.cluster.create(DEPLOYMENT, deployment_raw())
    bench.crowd.is_there = True
    await bench.begin_build()
    await bench.reconcile(DEPLOYMENT_KEY)
    assert len(bench.cluster.jobs("build")) == len(bench.cluster.jobs("resolve")) == 1
    assert bench.ready(ENGINE_KEY)[1] == reasons.BUILD_STARTING, "an answer is recorded at once"
    assert not bench.cluster.objects[DEPLOYMENT, "chat"]["status"]
    bench.heard.clear()
    bench.crowd.is_there = False
    bench.crowd.free()
    assert bench.heard == {ENGINE_KEY, DEPLOYMENT_KEY}
    for key in (ENGINE_KEY, DEPLOYMENT_KEY):
        await bench.reconcile(key)
    assert bench.ready(DEPLOYMENT_KEY)[1] == reasons.ENGINE_NOT_READY


async def test_trouble_is_told_in_a_crowd_too() -> None:
    bench = Bench(SimulatedCluster())
    bench.cluster.create(ENGINE, engine_raw({"precision": "fp7"}))
    bench.cluster.create(DEPLOYMENT, deployment_raw())
    bench.crowd.is_there = True
    await bench.reconcile(ENGINE_KEY)
    assert bench.ready(ENGINE_KEY)[1] == reasons.INVALID_SPEC


async def test_resource_that_is_gone_needs_nothing() -> None:
    bench = Bench(SimulatedCluster())
    assert await bench.reconcile(ENGINE_KEY) is None
    assert bench.cluster.writes == 0


async def test_log_of_a_build_is_read_once_an_interval() -> None:
    cluster = SimulatedCluster()
    bench = Bench(cluster)
    cluster.create(ENGINE, engine_raw())
    await bench.begin_build()
    cluster.start_pod(cluster.jobs()[0])
    pod = cluster.pods_of(cluster.jobs()[0])[0]["metadata"]["name"]
    line = '{"kind":"progress","phase":"Graph","percent":%d}\n'
    cluster.logs[pod] = "noise\n" + line % 20 + "more noise\n"
    assert await bench.reconcile(ENGINE_KEY) == CONFIG.log_poll_seconds
    cluster.logs[pod] = line % 40
    await bench.reconcile(ENGINE_KEY)
    assert cluster.objects[ENGINE, "tiny"]["status"]["progress"] == "Graph 20%"
    bench.now = NOW.replace(minute=1)
    await bench.reconcile(ENGINE_KEY)
    assert cluster.objects[ENGINE, "tiny"]["status"]["progress"] == "Graph 40%"


async def test_pods_of_a_job_that_ended_unseen_are_read_live() -> None:
    cluster = SimulatedCluster()
    bench = Bench(cluster)
    cluster.create(ENGINE, engine_raw())
    await bench.begin_build()
    job = cluster.jobs()[0]
    cluster.start_pod(job)
    cluster.end_pod(cluster.pods_of(job)[0], "", 1)
    cluster.end_job(job, "Failed", "BackoffLimitExceeded")
    for kind in WATCHED:
        if kind is not POD:
            bench.store.replace(kind, *await cluster.list_all(kind, None), None)
    await bench.reconciler.reconcile(ENGINE_KEY)
    assert bench.ready(ENGINE_KEY)[1] == reasons.BUILD_FAILED


async def test_an_event_that_cannot_be_recorded_harms_nothing() -> None:
    class Silent(SimulatedCluster):
        async def create_event(self, event: Raw) -> None:
            raise Unavailable("no events today")

    bench = Bench(Silent())
    bench.cluster.create(ENGINE, engine_raw())
    await bench.reconcile(ENGINE_KEY)
    assert bench.ready(ENGINE_KEY)[1] == reasons.RESOLVING


def test_repeated_event_has_the_same_name() -> None:
    meta = meta_of(engine_raw())
    first = Emit(ENGINE, meta, "Normal", "Building", "text", "2026-11-01T12:00:00Z")
    again = Emit(ENGINE, meta, "Normal", "Building", "text", "2026-11-01T12:00:00Z")
    later = Emit(ENGINE, meta, "Normal", "Building", "text", "2026-11-01T13:00:00Z")
    names = [event_manifest(e)["metadata"]["name"] for e in (first, again, later)]
    assert names[0] == names[1] != names[2]
    assert event_manifest(first)["eventTime"] == "2026-11-01T12:00:00.000000Z"


async def test_a_build_that_a_stale_status_does_not_tell_of_is_left_alone() -> None:
    bench = Bench(SimulatedCluster())
    bench.cluster.create(ENGINE, engine_raw())
    stale = await bench.cluster.get(ENGINE, NAMESPACE, "tiny")
    assert stale is not None
    await bench.begin_build()
    assert len(bench.cluster.jobs("build")) == 1
    behind = Bench(bench.cluster)
    behind.store.put(ENGINE, stale)
    for kind in WATCHED:
        if kind is not ENGINE:
            behind.store.replace(kind, *await bench.cluster.list_all(kind, None), None)
    for _ in range(2):
        await behind.reconciler.reconcile(ENGINE_KEY)
    (build,) = bench.cluster.jobs("build")
    assert bench.cluster.created[f"Job/{build['metadata']['name']}"] == 1


async def test_an_answer_is_recorded_before_its_build_begins() -> None:
    class Stopped(SimulatedCluster):
        async def apply(self, manifest: Raw) -> Raw:
            if "-build-" in manifest["metadata"]["name"]:
                raise Unavailable("503: going down")
            return await super().apply(manifest)

    bench = Bench(Stopped())
    bench.cluster.create(ENGINE, engine_raw())
    with pytest.raises(RetryLater):
        await bench.begin_build()
    status = bench.cluster.objects[ENGINE, "tiny"]["status"]
    assert status["resolution"]["answer"]
    assert [version["phase"] for version in status["versions"]] == ["Building"]
