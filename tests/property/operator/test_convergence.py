"""Whatever happens in whatever order, the operator gets there, builds once and loses nothing.

Hypothesis plays everybody else: watches that lag, an API server that goes away between two writes,
an operator that restarts, controllers, users, strangers and the clock.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pitcrew_operator.dispatch import concerned
from pitcrew_operator.kinds import CLAIM, DEPLOYMENT, ENGINE, JOB, POD, WATCHED, WORKLOAD, Kind, Raw
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.reconcile import Key, Reconciler
from pitcrew_operator.store import Store
from pitcrew_operator.workqueue import RetryLater
from tests.property.operator.simulation import Object, SimulatedCluster
from tests.unit.operator.factories import (
    CONFIG,
    NAMESPACE,
    deployment_raw,
    engine_raw,
    failed,
    succeeded,
)

ENGINE_KEY = Key(ENGINE, NAMESPACE, "tiny")
DEPLOYMENT_KEY = Key(DEPLOYMENT, NAMESPACE, "chat")
ROUNDS = 40


def claim(name: str) -> Raw:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {}}


class World(RuleBasedStateMachine):
    """One engine, one deployment, and everything that can happen to them."""

    @initialize(source=st.booleans())
    def begin(self, source: bool) -> None:
        self.cluster = SimulatedCluster()
        self.now = datetime(2026, 11, 1, 12, tzinfo=UTC)
        self.had_engine: str | None = None
        self.built = "", 0
        self.rebuilds = 0
        self.cluster.create(ENGINE, engine_raw())
        self.cluster.create(DEPLOYMENT, deployment_raw())
        if source:
            self.cluster.create(CLAIM, claim("checkpoints"))
        self.restart()

    # The operator.

    @rule()
    def restart(self) -> None:
        """A new process knows nothing and lists everything."""
        self.dirty: set[Key] = {ENGINE_KEY, DEPLOYMENT_KEY}
        self.store = Store(self._changed)
        self.reconciler = Reconciler(
            self.cluster, self.store, CONFIG, Metrics(), now=lambda: self.now
        )
        asyncio.run(self._list_everything())

    async def _list_everything(self) -> None:
        for kind in WATCHED:
            items, version = await self.cluster.list_all(kind, None)
            self.store.replace(kind, items, version, None)

    def _changed(self, kind: Kind, raw: Raw) -> None:
        self.dirty.update(concerned(kind, raw, self.store, CONFIG))

    @rule(key=st.sampled_from([ENGINE_KEY, DEPLOYMENT_KEY]), outage=st.integers(-1, 3))
    def reconcile(self, key: Key, outage: int) -> None:
        """One pass, perhaps with the API server going away before one of its writes."""
        self.cluster.refuse_after = outage if outage >= 0 else None
        self._pass(key)
        self.cluster.refuse_after = None

    def _pass(self, key: Key) -> None:
        self.dirty.discard(key)
        try:
            asyncio.run(self.reconciler.reconcile(key))
        except RetryLater:
            self.dirty.add(key)

    @precondition(lambda self: self.cluster.pending)
    @rule(events=st.integers(1, 5))
    def watches_catch_up(self, events: int) -> None:
        for _ in range(min(events, len(self.cluster.pending))):
            self.cluster.deliver(self.store.put, self.store.remove)

    @rule()
    def lists_again(self) -> None:
        asyncio.run(self._list_everything())

    # Controllers and the kubelet.

    def _unfinished(self) -> list[Object]:
        return [job for job in self.cluster.jobs() if not job.get("status", {}).get("conditions")]

    def _going(self, job: Object) -> list[Object]:
        pods = self.cluster.pods_of(job)
        return [p for p in pods if "running" in p["status"]["containerStatuses"][0]["state"]]

    @precondition(lambda self: self._unfinished())
    @rule()
    def pod_starts(self) -> None:
        job = self._unfinished()[0]
        if not self._going(job):
            self.cluster.start_pod(job)

    @precondition(lambda self: any(self._going(job) for job in self._unfinished()))
    @rule(end=st.sampled_from(["success", "refusal", "crash", "lost"]))
    def pod_ends(self, end: str) -> None:
        job = next(job for job in self._unfinished() if self._going(job))
        pod = self._going(job)[0]
        if end == "success":
            self.cluster.end_pod(pod, succeeded(), 0)
            self.cluster.end_job(job, "Complete")
        elif end == "refusal":
            self.cluster.end_pod(pod, failed(), 2)
            self.cluster.end_job(job, "Failed", "PodFailurePolicy")
        elif end == "crash":
            self.cluster.end_pod(pod, "", 137)
        else:
            self.cluster.remove(POD, pod["metadata"]["name"])
            self.cluster.end_job(job, "Complete")

    @precondition(lambda self: (WORKLOAD, "chat") in self.cluster.objects)
    @rule()
    def rollout_finishes(self) -> None:
        self.cluster.roll_out("chat")

    @rule(rounds=st.integers(1, 4))
    def a_calm_while(self, rounds: int) -> None:
        """Deep states are rare by chance alone."""
        for _ in range(rounds):
            self._let_the_world_go_on()

    # Users, strangers, the clock.

    @rule(batch=st.sampled_from([1, 2, 8]))
    def user_changes_the_engine(self, batch: int) -> None:
        spec = self.cluster.objects[ENGINE, "tiny"]["spec"]
        self.cluster.update(ENGINE, "tiny", spec=spec | {"shapes": {"maxBatchSize": batch}})

    @rule()
    def user_asks_for_a_rebuild(self) -> None:
        self.rebuilds += 1
        metadata = self.cluster.objects[ENGINE, "tiny"]["metadata"]
        annotations = {"pitcrew.dev/rebuild": str(self.rebuilds)}
        self.cluster.update(ENGINE, "tiny", metadata=metadata | {"annotations": annotations})

    @rule(replicas=st.sampled_from([0, 1, 3]))
    def user_scales(self, replicas: int) -> None:
        spec = self.cluster.objects[DEPLOYMENT, "chat"]["spec"]
        self.cluster.update(DEPLOYMENT, "chat", spec=spec | {"replicas": replicas})

    @rule(world_size=st.sampled_from([1, 2]))
    def user_sets_the_world_size(self, world_size: int) -> None:
        spec = self.cluster.objects[DEPLOYMENT, "chat"]["spec"]
        self.cluster.update(DEPLOYMENT, "chat", spec=spec | {"worldSize": world_size})

    @rule()
    def user_provides_or_takes_the_checkpoint(self) -> None:
        if (CLAIM, "checkpoints") in self.cluster.objects:
            self.cluster.remove(CLAIM, "checkpoints")
        else:
            self.cluster.create(CLAIM, claim("checkpoints"))

    @precondition(lambda self: self.cluster.jobs())
    @rule()
    def stranger_deletes_a_job(self) -> None:
        self.cluster.remove(JOB, self.cluster.jobs()[0]["metadata"]["name"])

    @precondition(lambda self: (WORKLOAD, "chat") in self.cluster.objects)
    @rule(delete=st.booleans())
    def stranger_meddles_with_the_workload(self, delete: bool) -> None:
        if delete:
            self.cluster.remove(WORKLOAD, "chat")
        else:
            spec = self.cluster.objects[WORKLOAD, "chat"]["spec"]
            self.cluster.update(WORKLOAD, "chat", spec=spec | {"replicas": 9})

    @rule(minutes=st.integers(-120, 240))
    def clock_jumps(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    # What must hold at every moment.

    def _status(self, kind: Kind, name: str) -> dict[str, Any]:
        return self.cluster.objects[kind, name].get("status") or {}

    @invariant()
    def the_proven_engine_is_never_dropped(self) -> None:
        engine = self._status(ENGINE, "tiny").get("engine")
        assert engine or not self.had_engine
        self.had_engine = engine["id"] if engine else None

    @invariant()
    def at_most_one_build_is_under_way(self) -> None:
        assert len(self._unfinished()) <= 1

    @invariant()
    def what_is_built_is_not_built_again(self) -> None:
        build = self._status(ENGINE, "tiny").get("build") or {}
        name = build.get("jobName")
        if name != self.built[0]:
            self.built = "", 0
        assert not self.built[0] or self.cluster.created[f"Job/{name}"] == self.built[1]
        if build.get("state") in ("Succeeded", "Failed"):
            self.built = name, self.cluster.created[f"Job/{name}"]

    @invariant()
    def exactly_one_condition_is_true(self) -> None:
        for kind, name in ((ENGINE, "tiny"), (DEPLOYMENT, "chat")):
            conditions = self._status(kind, name).get("conditions", [])
            assert sum(c["status"] == "True" for c in conditions) == bool(conditions)

    # In the end.

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        self._calm_down()
        for _ in range(ROUNDS):
            self._let_the_world_go_on()
            if self._ready(ENGINE, "tiny") and self._ready(DEPLOYMENT, "chat"):
                break
        self._settle()
        assert self._ready(ENGINE, "tiny"), self._status(ENGINE, "tiny")
        assert self._ready(DEPLOYMENT, "chat"), self._status(DEPLOYMENT, "chat")
        self._assert_nothing_more_is_written()
        self.restart()
        self._assert_nothing_more_is_written()

    def _calm_down(self) -> None:
        if (CLAIM, "checkpoints") not in self.cluster.objects:
            self.cluster.create(CLAIM, claim("checkpoints"))
        self.user_sets_the_world_size(1)
        self.user_asks_for_a_rebuild()

    def _settle(self) -> None:
        for _ in range(5):
            while self.cluster.pending:
                self.cluster.deliver(self.store.put, self.store.remove)
            for key in (ENGINE_KEY, DEPLOYMENT_KEY):
                self._pass(key)

    def _let_the_world_go_on(self) -> None:
        self._settle()
        if self._unfinished():
            self.pod_starts()
            self.pod_ends("success")
        if (WORKLOAD, "chat") in self.cluster.objects:
            self.rollout_finishes()

    def _ready(self, kind: Kind, name: str) -> bool:
        conditions = self._status(kind, name).get("conditions", [])
        generation = self.cluster.objects[kind, name]["metadata"]["generation"]
        true = {c["type"] for c in conditions if c["status"] == "True"}
        current = self._status(kind, name).get("observedGeneration") == generation
        return current and true == {"Ready"}

    def _assert_nothing_more_is_written(self) -> None:
        before = self.cluster.writes
        for key in (ENGINE_KEY, DEPLOYMENT_KEY):
            self._pass(key)
        assert self.cluster.writes == before


World.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWorld = World.TestCase
