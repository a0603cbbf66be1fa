"""Whatever happens in whatever order, the operator gets there, builds once and loses nothing.

Hypothesis plays everybody else: watches that lag, an API server that goes away between two writes,
an operator that restarts or brings another builder, controllers, users, strangers, a branch that
moves, and the clock.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pitcrew_operator.kinds import CLAIM, JOB, WORKLOAD, Kind
from pitcrew_operator.plan.autoscaling.looks import Look, Replica
from pitcrew_operator.plan.conditions import Health
from pitcrew_operator.plan.questions import Proven
from pitcrew_operator.reconcile import Key
from tests.property.operator.simulation import Object
from tests.property.operator.world import (
    CHAT,
    ENGINES,
    HUB,
    KEYS,
    TINY,
    VOLUME,
    World,
    claim,
)

ROUNDS = 40
BATCHES = st.sampled_from([1, 2, 8])
IMAGES = ("pitcrew/builder:1", "pitcrew/builder:2", "pitcrew/builder:3")
"""The second makes what the first makes; the third has another compiler."""


ROLLOUTS: tuple[dict[str, object], ...] = (
    {"strategy": "InPlace"},
    {"paused": True},
    {"canary": {"steps": [{"weight": 50, "holdSeconds": 60}]}, "maxSurge": 2},
    {"canary": {"steps": [{"replicas": 1}], "analysis": {"minRequests": 10}}},
)


class Life(RuleBasedStateMachine):
    """Two engines of one spec, one deployment, and everything that can happen to them."""

    @initialize(
        source=st.sampled_from([HUB, VOLUME]), limit=st.sampled_from([0, 1]), there=st.booleans()
    )
    def begin(self, source: dict[str, object], limit: int, there: bool) -> None:
        self.world = World(source, limit)
        self.world.builder.toolchains[IMAGES[2]] = {"onnxruntime": "1.33.0"}
        self.world.cluster.listeners.append(self._created)
        self.had_engine = dict.fromkeys(ENGINES, False)
        self.jobs_seen: set[str] = set()
        self.commits = self.triggers = 0
        if there:
            self.world.cluster.create(CLAIM, claim("checkpoints"))

    def _created(self, change: str, kind: Kind, found: Object) -> None:
        """No build is begun of what its own engine's status tells is proven.

        Another engine's Job of a finished build asks the store, which has it.
        """
        metadata = found["metadata"]
        if kind is not JOB or metadata["uid"] in self.jobs_seen:
            return
        self.jobs_seen.add(metadata["uid"])
        owners = {owner["name"] for owner in metadata["ownerReferences"]}
        for key in ENGINES:
            versions = self.world.status(key).get("versions", ()) if key.name in owners else ()
            for version in versions:
                if version["jobName"] == metadata["name"]:
                    assert version["phase"] != "Ready", version

    # The operator.

    @rule(image=st.sampled_from([None, *IMAGES]))
    def restart(self, image: str | None) -> None:
        self.world.restart(image)

    @rule(events=st.integers(0, 30))
    def another_operator_leads(self, events: int) -> None:
        """With a view that is as old as may be; two may believe in turns that they lead."""
        self.world.hand_over()
        self.world.deliver(events)

    @rule(key=st.sampled_from(KEYS), outage=st.integers(-1, 3), crowd=st.booleans())
    def reconcile(self, key: Key, outage: int, crowd: bool) -> None:
        """One pass, perhaps with the API server going away before one of its writes."""
        self.world.cluster.refuse_after = outage if outage >= 0 else None
        self.world.crowd.is_there = crowd
        self.world.reconcile(key)
        self.world.cluster.refuse_after = None

    @precondition(lambda self: self.world.cluster.pending)
    @rule(events=st.integers(1, 5))
    def watches_catch_up(self, events: int) -> None:
        self.world.deliver(events)

    @rule()
    def lists_again(self) -> None:
        self.world.list_everything()

    # Controllers, the kubelet and the builder.

    def _busy(self) -> list[Object]:
        return self.world.unfinished("resolve", "build", "collect")

    @precondition(lambda self: self._busy())
    @rule(which=st.integers(0, 3))
    def pod_starts(self, which: int) -> None:
        jobs = self._busy()
        self.world.start(jobs[which % len(jobs)])

    @precondition(lambda self: any(self.world.going(job) for job in self._busy()))
    @rule(which=st.integers(0, 3), end=st.sampled_from(["success", "refusal", "crash", "lost"]))
    def pod_ends(self, which: int, end: str) -> None:
        going = [job for job in self._busy() if self.world.going(job)]
        self.world.end(going[which % len(going)], end)

    @precondition(lambda self: self.world.cluster.workloads())
    @rule(which=st.integers(0, 3))
    def rollout_finishes(self, which: int) -> None:
        workloads = self.world.cluster.workloads()
        self.world.cluster.roll_out(workloads[which % len(workloads)])

    @rule(rounds=st.integers(1, 6))
    def a_calm_while(self, rounds: int) -> None:
        """Deep states are rare by chance alone."""
        for _ in range(rounds):
            self.world.work_on()

    # Users, strangers, the world outside, the clock.

    @rule(key=st.sampled_from(ENGINES), batches=st.lists(BATCHES, max_size=4))
    def user_changes_an_engine(self, key: Key, batches: list[int]) -> None:
        """Once while everything is under way, or back and forth with time to build in between."""
        for batch in batches:
            self.world.change(key, shapes={"maxBatchSize": batch})
            for _ in range(4 if len(batches) > 1 else 0):
                self.world.work_on()

    @rule(batches=st.permutations([1, 2, 8]))
    def users_want_different_engines_at_once(self, batches: list[int]) -> None:
        for key, batch in zip(ENGINES, batches, strict=False):
            self.world.change(key, shapes={"maxBatchSize": batch})
        for _ in range(2):
            self.world.settle()
            for job in self.world.unfinished("resolve"):
                self.world.start(job)
                self.world.end(job, "success")
        self.world.settle()

    @rule(key=st.sampled_from(ENGINES), memory=st.sampled_from(["1Gi", "2Gi"]))
    def user_changes_how_it_is_built(self, key: Key, memory: str) -> None:
        self.world.change(key, build={"resources": {"limits": {"memory": memory}}})

    @rule(key=st.sampled_from(ENGINES))
    def user_pulls_the_trigger(self, key: Key) -> None:
        self.triggers += 1
        self.world.change_policy(key, trigger=str(self.triggers))

    @rule(
        key=st.sampled_from(ENGINES),
        mode=st.sampled_from(["Auto", "Manual", "Window"]),
        superseded=st.sampled_from(["Finish", "Cancel"]),
    )
    def user_sets_the_policy(self, key: Key, mode: str, superseded: str) -> None:
        window = {"window": {"start": "03:00", "end": "04:00"}} if mode == "Window" else {}
        policy = self.world.cluster.objects[key.kind, key.name]["spec"]["rebuildPolicy"]
        kept = {name: value for name, value in policy.items() if name != "window"}
        chosen = kept | window | {"mode": mode, "superseded": superseded}
        self.world.change(key, rebuildPolicy=chosen)

    @rule(key=st.sampled_from(ENGINES), suspend=st.booleans())
    def user_suspends(self, key: Key, suspend: bool) -> None:
        self.world.change(key, suspend=suspend)

    @rule()
    def branch_moves(self) -> None:
        self.commits += 1
        self.world.builder.commit = f"{self.commits:040x}"

    @rule(replicas=st.sampled_from([0, 1, 3]))
    def user_scales(self, replicas: int) -> None:
        self.world.change(CHAT, replicas=replicas, autoscaling=None)

    @rule(bounds=st.sampled_from([(1, 1), (1, 4), (3, 5)]))
    def user_leaves_replicas_to_the_load(self, bounds: tuple[int, int]) -> None:
        least, most = bounds
        asked = {"minReplicas": least, "maxReplicas": most}
        self.world.change(CHAT, replicas=None, autoscaling=asked)

    @rule(
        waiting=st.lists(st.sampled_from([None, 0.0, 3.0, 50.0]), max_size=3),
        seconds=st.sampled_from([0, 30, 300]),
    )
    def load_is_measured(self, waiting: list[float | None], seconds: int) -> None:
        told = tuple(Replica(waiting=each, running=1.0) for each in waiting)
        self.world.looks = tuple(Look(float(age), told) for age in range(0, seconds + 1, 15))

    @rule(rollout=st.sampled_from([{}, *ROLLOUTS]))
    def user_changes_how_it_rolls(self, rollout: dict[str, object]) -> None:
        self.world.change(CHAT, rollout=rollout)

    @rule(image=st.sampled_from(["pitcrew/runtime:1", "pitcrew/runtime:2"]))
    def user_changes_the_image(self, image: str) -> None:
        self.world.change(CHAT, runtime={"image": image})

    @rule(reached=st.booleans())
    def service_is_or_is_not_reached(self, reached: bool) -> None:
        self.world.asker.proven = Proven(None if reached else "no answer")

    @rule(world_size=st.sampled_from([1, 2]))
    def user_sets_the_world_size(self, world_size: int) -> None:
        self.world.change(CHAT, worldSize=world_size)

    @rule(pinned=st.booleans())
    def user_pins_a_version(self, pinned: bool) -> None:
        ready = [
            v["id"] for v in self.world.status(TINY).get("versions", ()) if v["phase"] == "Ready"
        ]
        version = ready[-1] if pinned and ready else None
        self.world.change(
            CHAT, engineRef={"name": "tiny"} | ({"version": version} if version else {})
        )

    @rule()
    def user_provides_or_takes_the_checkpoint(self) -> None:
        if (CLAIM, "checkpoints") in self.world.cluster.objects:
            self.world.cluster.remove(CLAIM, "checkpoints")
        else:
            self.world.cluster.create(CLAIM, claim("checkpoints"))

    @precondition(lambda self: self.world.cluster.jobs("build"))
    @rule(component=st.sampled_from(["build", "resolve", "collect"]))
    def stranger_deletes_a_job(self, component: str) -> None:
        for job in self.world.cluster.jobs(component)[:1]:
            self.world.remove_job(job)

    @precondition(lambda self: self.world.cluster.workloads())
    @rule(which=st.integers(0, 3), delete=st.booleans())
    def stranger_meddles_with_a_workload(self, which: int, delete: bool) -> None:
        workloads = self.world.cluster.workloads()
        victim = workloads[which % len(workloads)]
        name = victim["metadata"]["name"]
        if delete:
            self.world.cluster.remove(WORKLOAD, name)
        else:
            spec = victim["spec"] | {"replicas": 9}
            self.world.cluster.update(WORKLOAD, name, spec=spec)

    @rule(minutes=st.integers(-120, 240))
    def clock_jumps(self, minutes: int) -> None:
        self.world.pass_time(minutes)

    # What must hold at every moment.

    @invariant()
    def the_proven_engine_is_never_dropped(self) -> None:
        for key in ENGINES:
            engine = self.world.status(key).get("engine")
            assert engine or not self.had_engine[key]
            self.had_engine[key] = bool(engine)

    @invariant()
    def what_serves_or_did_before_is_in_the_store(self) -> None:
        for key in ENGINES:
            status = self.world.status(key)
            ids = {status.get("current"), status.get("previous")} - {None}
            assert ids <= self.world.engines
        served = self.world.status(CHAT).get("engine")
        assert served is None or served["id"] in self.world.engines
        for workload in self.world.cluster.workloads():
            held = workload["metadata"]["annotations"]["pitcrew.dev/engine-id"]
            assert held in self.world.engines or not workload["spec"]["replicas"]

    @invariant()
    def current_engine_is_one_of_the_versions(self) -> None:
        for key in ENGINES:
            status = self.world.status(key)
            ready = {v["id"] for v in status.get("versions", ()) if v["phase"] == "Ready"}
            assert status.get("current") in ready | {None}
            assert (status.get("engine") or {}).get("id") == status.get("current")

    @invariant()
    def no_engine_is_built_by_two_jobs_at_once(self) -> None:
        jobs = self.world.cluster.jobs("build")
        open_jobs = [job for job in jobs if not job.get("status", {}).get("conditions")]
        builds = [job["metadata"]["labels"]["pitcrew.dev/build"] for job in open_jobs]
        assert len(builds) == len(set(builds))
        for key in ENGINES:
            uid = self.world.cluster.objects[key.kind, key.name]["metadata"]["uid"]
            own = [job for job in open_jobs if _is_owned(job, uid)]
            assert len(own) <= 1

    @invariant()
    def no_more_builds_run_than_may(self) -> None:
        limit = self.world.config.max_parallel_builds
        assert not limit or len(self.world.unfinished("build")) <= limit

    @invariant()
    def exactly_one_condition_is_true(self) -> None:
        for key in KEYS:
            conditions = self.world.status(key).get("conditions", [])
            healths = [c for c in conditions if c["type"] in set(Health)]
            assert sum(c["status"] == "True" for c in healths) == bool(conditions)

    @invariant()
    def a_recorded_number_is_one_that_was_allowed(self) -> None:
        decided = self.world.status(CHAT).get("autoscaling")
        assert decided is None or 1 <= decided["desiredReplicas"] <= 5

    # In the end.

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self._calm_down()
        for _ in range(ROUNDS):
            self.world.work_on()
            self.world.pass_time(1)
            if self._is_well():
                break
        self.world.settle()
        assert self._is_well(), [self.world.status(key).get("conditions") for key in KEYS]
        self._assert_nothing_more_is_written()
        self.world.restart()
        self._assert_nothing_more_is_written()

    def _is_well(self) -> bool:
        return (
            all(self.world.condition(key, "Ready")[0] == "True" for key in KEYS)
            and all(self.world.condition(key, "UpToDate")[0] == "True" for key in ENGINES)
            and not self._busy()
        )

    def _calm_down(self) -> None:
        if (CLAIM, "checkpoints") not in self.world.cluster.objects:
            self.world.cluster.create(CLAIM, claim("checkpoints"))
        self.world.asker.proven = Proven(None)
        self.world.looks = ()
        again = {"trigger": "in the end"}
        self.world.change(CHAT, worldSize=1, engineRef={"name": "tiny"}, rollout=again)
        for key in ENGINES:
            self.triggers += 1
            policy = {"pollSeconds": 0, "trigger": str(self.triggers)}
            self.world.change(key, suspend=False, rebuildPolicy=policy)

    def _assert_nothing_more_is_written(self) -> None:
        before = self.world.cluster.writes
        for key in KEYS:
            self.world.reconcile(key)
        assert self.world.cluster.writes == before


def _is_owned(job: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in job["metadata"]["ownerReferences"])


Life.TestCase.settings = settings(
    max_examples=35,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLife = Life.TestCase
