"""A cluster, an operator, and everybody else's hands: what may happen, and how it is brought about.

The world knows nothing of what must hold; the tests do.
"""

import itertools
import math
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pitcrew_operator.ask.dcgm import PodName
from pitcrew_operator.config import Config
from pitcrew_operator.dispatch import concerned
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, JOB, POD, Kind, Raw
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.patience import Patience
from pitcrew_operator.plan.autoscaling.looks import Look
from pitcrew_operator.reconcile import Key, Reconciler
from pitcrew_operator.store import Store
from pitcrew_operator.workqueue import RetryLater
from tests.property.operator.fake_asker import FakeAsker
from tests.property.operator.fake_builder import FakeBuilder
from tests.property.operator.simulation import Object, SimulatedCluster
from tests.unit.operator.factories import CONFIG, NAMESPACE, deployment_raw, engine_raw, failed

TINY, TWIN = Key(ENGINE, NAMESPACE, "tiny"), Key(ENGINE, NAMESPACE, "twin")
CHAT = Key(DEPLOYMENT, NAMESPACE, "chat")
KEYS = (TINY, TWIN, CHAT)
ENGINES = (TINY, TWIN)
HUB = {"model": {"huggingFace": {"repo": "acme/tiny"}}}
VOLUME = {"model": {"volume": {"claimName": "checkpoints", "path": "tiny"}}}
POLICY = {"pollSeconds": 60}


_T = TypeVar("_T")


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run what never has to wait: the cluster is in memory. An event loop would cost more."""
    try:
        work.send(None)
    except StopIteration as end:
        result: _T = end.value
        return result
    raise AssertionError("the simulated cluster never waits")


class Crowd(Patience[Key]):
    """Whether there is much to do is said, not measured."""

    def __init__(self, add: Callable[[Key], None]) -> None:
        super().__init__(math.inf, add)
        self.is_there = False

    @property
    def is_busy(self) -> bool:
        """See Patience."""
        return self.is_there


def claim(name: str) -> Raw:
    """A volume, as a user makes one."""
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {}}


@dataclass
class Standby:
    """An operator that does not lead: what it knows, and what its watches have still to tell it."""

    config: Config
    store: Store
    reconciler: Reconciler
    asker: FakeAsker
    crowd: Crowd
    pending: deque[tuple[str, Kind, Object]]


class World:
    """Two engines of one spec, a deployment of the first, and an operator that looks after them."""

    def __init__(self, source: dict[str, Any], limit: int) -> None:
        self.cluster = SimulatedCluster()
        self.builder = FakeBuilder()
        self.now = datetime(2026, 11, 1, 12, tzinfo=UTC)
        self.config = CONFIG.model_copy(update={"max_parallel_builds": limit})
        self.gpus: dict[PodName, list[float]] = {}
        """Percent of each GPU, by the pod that holds it."""
        self.looks: tuple[Look, ...] = ()
        """At the load of the deployment, the newest first."""
        self.engines: set[str] = set()
        """Ids in the engine store."""
        spec = source | {"rebuildPolicy": POLICY}
        self.cluster.create(ENGINE, engine_raw(spec))
        self.cluster.create(ENGINE, engine_raw(spec) | {"metadata": _named("twin")})
        self.cluster.create(DEPLOYMENT, deployment_raw())
        self.standby: Standby | None = None
        self.cluster.listeners.append(self._tell_standby)
        self.restart()

    # The operator.

    def restart(self, image: str | None = None) -> None:
        """A new process knows nothing and lists everything; perhaps it brings another builder."""
        if image is not None:
            self.config = self.config.model_copy(update={"builder_image": image})
        self.dirty: set[Key] = set(KEYS)
        self.store = Store(self._changed)
        self.asker = FakeAsker(self._answered)
        self.metrics = Metrics()
        self.crowd = Crowd(lambda key: self.dirty.add(key))
        self.reconciler = Reconciler(
            self.cluster,
            self.store,
            self.config,
            self.metrics,
            self.asker,
            now=lambda: self.now,
            gpus=lambda: self.gpus,
            looks=lambda namespace, name: self.looks,
            patience=self.crowd,
        )
        self.list_everything()

    def hand_over(self) -> None:
        """Another operator leads; it has not heard of anything since it was made or led last. The one
        before may lead again, or even believe that it never ceased to.
        """
        there = self.standby
        self.standby = Standby(
            self.config, self.store, self.reconciler, self.asker, self.crowd, self.cluster.pending
        )
        if there is None:
            self.cluster.pending = deque()
            self.restart()
            return
        self.config, self.store, self.reconciler = there.config, there.store, there.reconciler
        self.asker, self.crowd, self.cluster.pending = there.asker, there.crowd, there.pending
        self.dirty = set(KEYS)

    def _tell_standby(self, change: str, kind: Kind, raw: Object) -> None:
        if self.standby is not None:
            self.standby.pending.append((change, kind, raw))

    def list_everything(self) -> None:
        """Full listings of every kind."""
        for kind in self.config.watched:
            items, version = _run(self.cluster.list_all(kind, None))
            self.store.replace(kind, items, version, None)

    def _answered(self, key: Hashable) -> None:
        assert isinstance(key, Key)
        self.dirty.add(key)

    def _changed(self, kind: Kind, raw: Raw) -> None:
        self.dirty.update(concerned(kind, raw, self.store, self.config))

    def reconcile(self, key: Key) -> None:
        """One pass; an expected failure is repeated later."""
        self.dirty.discard(key)
        try:
            _run(self.reconciler.reconcile(key))
        except RetryLater:
            self.dirty.add(key)

    def deliver(self, events: int) -> None:
        """Let the watches catch up by so many events."""
        for _ in range(min(events, len(self.cluster.pending))):
            self.cluster.deliver(self.store.put, self.store.remove)

    def settle(self) -> None:
        """Watches catch up and every resource is reconciled, until nothing is left to do."""
        self.dirty.update(KEYS)
        self.crowd.is_there = False
        for _ in range(8):
            self.crowd.free()
            self.deliver(len(self.cluster.pending))
            for key in sorted(self.dirty, key=str):
                self.reconcile(key)
            if not (self.dirty or self.cluster.pending):
                return

    # Controllers, the kubelet and the builder.

    def unfinished(self, *components: str) -> list[Object]:
        """Jobs that have come to no end and do not wait for their turn."""
        jobs = [job for component in components for job in self.cluster.jobs(component)]
        return [
            job
            for job in jobs
            if not job.get("status", {}).get("conditions") and not job["spec"].get("suspend")
        ]

    def going(self, job: Object) -> list[Object]:
        """Pods of a Job that run."""
        pods = self.cluster.pods_of(job)
        return [p for p in pods if "running" in p["status"]["containerStatuses"][0]["state"]]

    def start(self, job: Object) -> None:
        """A pod of the Job runs."""
        if not self.going(job):
            self.cluster.start_pod(job)

    def end(self, job: Object, how: str) -> None:
        """A running pod comes to its end: success, refusal, crash, or success that is lost."""
        pod = self.going(job)[0]
        if how == "refusal":
            self.cluster.end_pod(pod, failed(), 2)
            self.cluster.end_job(job, "Failed", "PodFailurePolicy")
        elif how == "crash":
            self.cluster.end_pod(pod, "", 137)
        else:
            words = self._work(job)
            self.cluster.end_pod(pod, words, 0)
            if how == "lost":
                self.cluster.remove(POD, pod["metadata"]["name"])
            self.cluster.end_job(job, "Complete")

    def _work(self, job: Object) -> str:
        """Do what the Job is for; its last words."""
        arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
        if arguments[0] == "resolve":
            return self.builder.resolve(job)
        if arguments[0] == "build":
            words, id_ = self.builder.build(job)
            self.engines.add(id_)
            return words
        self.engines -= {id_ for flag, id_ in _pairs(arguments) if flag == "--only-id"}
        return ""

    def work_on(self) -> None:
        """A round in which everybody does what is due."""
        self.settle()
        for job in self.unfinished("resolve", "build", "collect"):
            self.start(job)
            self.end(job, "success")
        for workload in self.cluster.workloads():
            self.cluster.roll_out(workload)

    # Users.

    def change(self, key: Key, **spec: object) -> None:
        """A user edits a spec."""
        found = self.cluster.objects[key.kind, key.name]["spec"]
        self.cluster.update(key.kind, key.name, spec=found | spec)

    def change_policy(self, key: Key, **policy: object) -> None:
        """A user edits an engine's rebuild policy."""
        found = self.cluster.objects[key.kind, key.name]["spec"]["rebuildPolicy"]
        self.change(key, rebuildPolicy=found | policy)

    def pass_time(self, minutes: int) -> None:
        """The clock moves, back too."""
        self.now += timedelta(minutes=minutes)

    # What there is to see.

    def status(self, key: Key) -> dict[str, Any]:
        """The status as the API server has it."""
        return self.cluster.objects[key.kind, key.name].get("status") or {}

    def condition(self, key: Key, kind: str) -> tuple[str, str]:
        """Status and reason of a condition of the newest generation."""
        found = self.cluster.objects[key.kind, key.name]
        for condition in self.status(key).get("conditions", ()):
            current = condition["observedGeneration"] == found["metadata"]["generation"]
            if condition["type"] == kind and current:
                return condition["status"], condition["reason"]
        return "", ""

    def remove_job(self, job: Object) -> None:
        """A stranger deletes a Job."""
        self.cluster.remove(JOB, job["metadata"]["name"])


def _pairs(words: list[str]) -> Iterable[tuple[str, str]]:
    return itertools.pairwise(words)


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE}
