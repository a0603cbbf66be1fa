"""Autoscaling from a spec to replicas: what is asked for, what is recorded first, and what is told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from pitcrew_operator import reasons
from pitcrew_operator.api.autoscaling import Autoscaling
from pitcrew_operator.api.deployment import LLMDeploymentSpec
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.kinds import DEPLOYMENT, DISRUPTION_BUDGET, WORKLOAD
from pitcrew_operator.plan.autoscaling.looks import Look, Replica
from pitcrew_operator.plan.scaling import targets_of
from pitcrew_operator.plan.wish import spec_digest
from pitcrew_operator.plugin import explain, status
from pitcrew_operator.plugin.subject import Subject
from tests.property.operator.world import CHAT, HUB, TINY, World
from tests.unit.operator.factories import ENGINE_STATUS, NAMESPACE, deployment

GPUS = {"resources": {"limits": {"nvidia.com/gpu": 1}}}


def autoscaled(**fields: object) -> dict[str, Any]:
    """An autoscaled spec."""
    return {"replicas": None, "autoscaling": {"maxReplicas": 4, **fields}}


# What the spec says.


def test_one_alone_says_how_many_replicas_run() -> None:
    spec = {"engineRef": {"name": "tiny"}, "autoscaling": {"maxReplicas": 3}}
    assert LLMDeploymentSpec.model_validate(spec).replicas is None
    with pytest.raises(ValidationError, match="remove autoscaling"):
        LLMDeploymentSpec.model_validate(spec | {"replicas": 2})


def test_bounds_are_a_range() -> None:
    assert Autoscaling.model_validate({"maxReplicas": 1}).min_replicas == 1
    with pytest.raises(ValidationError, match="5 is more than maxReplicas, 4"):
        Autoscaling.model_validate({"minReplicas": 5, "maxReplicas": 4})


@pytest.mark.parametrize(
    ("named", "on_gpus", "on_cpus"),
    [
        ({}, {"gpu": 80}, {"waiting": 5}),
        ({"gpuUtilization": {"targetPercent": 60}}, {"gpu": 60}, {"waiting": 5}),
        ({"kvCacheUsage": {}}, {"kv": 80}, {"kv": 80}),
        ({"gpuUtilization": {}, "waitingRequests": {"targetPerReplica": 2}},
         {"gpu": 80, "waiting": 2}, {"waiting": 2}),
        ({"timeToFirstToken": {"targetMilliseconds": 500}},
         {"gpu": 80, "first_token": 0.5}, {"waiting": 5, "first_token": 0.5}),
    ],
)  # fmt: skip
def test_signals_that_are_named_vote_and_a_load_in_any_case(
    named: dict[str, Any], on_gpus: dict[str, float], on_cpus: dict[str, float]
) -> None:
    engine = EngineStatus.model_validate(ENGINE_STATUS)
    for runtime, expected in (({"runtime": GPUS}, on_gpus), ({}, on_cpus)):
        owner = deployment(autoscaled(**named) | runtime)
        assert owner.spec.autoscaling is not None
        found = targets_of(owner, owner.spec.autoscaling, engine)
        voting = {n: getattr(found, n) for n in ("gpu", "waiting", "kv", "first_token")}
        assert {n: value for n, value in voting.items() if value is not None} == expected


def test_plans_hold_gpus_without_being_asked() -> None:
    owner = deployment(autoscaled())
    assert owner.spec.autoscaling is not None
    engine = EngineStatus.model_validate(ENGINE_STATUS | {"computeCapability": "sm90"})
    assert targets_of(owner, owner.spec.autoscaling, engine).gpu == 80


def test_autoscaling_shapes_no_pod() -> None:
    assert spec_digest(deployment(autoscaled())) == spec_digest(deployment())


# What is done.


class Scaled(World):
    """A deployment that serves with two replicas, and is autoscaled from then on."""

    def __init__(self, autoscaling: dict[str, Any] | None = None, **spec: object) -> None:
        super().__init__(HUB, limit=0)
        self.change(CHAT, runtime=GPUS, **spec)
        for _ in range(8):
            self.work_on()
        self.change(CHAT, **autoscaled(**(autoscaling or {})))
        self.settle()

    def measure(self, *percents: float | None, seconds: float = 30.0) -> None:
        """Ready replicas told this in every look of so long; the operator decides, and acts."""
        self.now += timedelta(seconds=seconds + 61)
        told = tuple(Replica(gpu=percent) for percent in percents)
        self.looks = tuple(Look(15.0 * n, told) for n in range(int(seconds // 15) + 1))
        self.settle()

    def roll_out(self) -> None:
        """Replicas come and go."""
        for workload in self.cluster.workloads():
            self.cluster.roll_out(workload)
        self.settle()

    @property
    def replicas(self) -> int:
        """That the workloads keep."""
        return sum(workload["spec"]["replicas"] for workload in self.cluster.workloads())

    @property
    def desired(self) -> int:
        """That was decided."""
        return int(self.status(CHAT)["autoscaling"]["desiredReplicas"])

    def reasons(self) -> list[str]:
        """Of the events."""
        return [event["reason"] for event in self.cluster.events]

    def told(self, kind: str) -> tuple[str, str]:
        """Reason and message of a condition."""
        found = next(c for c in self.status(CHAT)["conditions"] if c["type"] == kind)
        return found["reason"], found["message"]


def test_what_there_is_goes_on_where_autoscaling_begins() -> None:
    world = Scaled()
    assert (world.desired, world.replicas) == (2, 2)
    assert world.condition(CHAT, "Ready") == ("True", reasons.SERVING)


def test_eighty_five_percent_is_one_more_and_forty_is_one_less() -> None:
    world = Scaled()
    world.measure(85, 85)
    assert (world.desired, world.replicas) == (3, 3)
    told = world.status(CHAT)["autoscaling"]
    assert told["message"] == (
        "gpuUtilization is 85 %, with a target of 80 %: 3 replicas in place of 2"
    )
    assert told["warming"] is True
    assert told["signals"] == [
        {"name": "gpuUtilization", "current": "85", "target": "80", "desiredReplicas": 3}
    ]
    world.roll_out()
    world.measure(40, 40, 40, seconds=300)
    assert (world.desired, world.replicas) == (2, 2)
    told = world.status(CHAT)["autoscaling"]
    assert told["warming"] is False
    assert "for 300 s at least: gpuUtilization is 40 %" in told["message"]
    assert world.reasons().count(reasons.SCALED_UP) == 1
    assert world.reasons().count(reasons.SCALED_DOWN) == 1
    budget = world.cluster.objects[DISRUPTION_BUDGET, "chat"]
    assert budget["spec"]["minAvailable"] == 1


def test_the_spec_is_never_written() -> None:
    world = Scaled()
    before = world.cluster.objects[DEPLOYMENT, "chat"]["spec"]
    world.measure(100, 100)
    assert world.replicas == 3
    assert world.cluster.objects[DEPLOYMENT, "chat"]["spec"] == before
    assert before["replicas"] is None


def test_while_replicas_start_no_more_are_added() -> None:
    world = Scaled()
    world.measure(85, 85)
    world.measure(95, 95)
    world.measure(100, 100)
    assert world.desired == 3
    world.roll_out()
    world.measure(100, 100, 100)
    assert world.desired == 4


@pytest.mark.parametrize("writes", range(6))
def test_a_number_that_was_decided_survives_whatever_is_not_written(writes: int) -> None:
    world = Scaled()
    world.now += timedelta(seconds=61)
    world.looks = tuple(Look(age, (Replica(gpu=85),) * 2) for age in (0.0, 15.0, 30.0))
    world.cluster.refuse_after = writes
    world.settle()
    world.cluster.refuse_after = None
    world.restart()
    recorded = world.desired
    world.looks = ()  # a new process has seen nothing yet
    if recorded == 2:
        assert world.replicas == 2, "what was not recorded was not acted on"
    world.settle()
    assert (world.desired, world.replicas) == (recorded, recorded)


def test_an_older_status_takes_nothing_back() -> None:
    """Another operator has decided and acted; its word about it is not heard yet."""
    world = Scaled()
    world.restart()
    world.settle()
    known = world.status(CHAT)
    decided = known["autoscaling"] | {"desiredReplicas": 3}
    world.cluster.update(DEPLOYMENT, "chat", status=known | {"autoscaling": decided})
    world.cluster.pending.clear()
    (workload,) = world.cluster.workloads()
    spec = workload["spec"] | {"replicas": 3}
    world.cluster.update(WORKLOAD, workload["metadata"]["name"], spec=spec)
    world.deliver(1)
    world.reconcile(CHAT)
    assert (world.desired, world.replicas) == (3, 3)
    world.settle()
    assert (world.desired, world.replicas) == (3, 3)


def test_a_status_that_was_lost_is_made_of_what_there_is() -> None:
    world = Scaled()
    world.measure(85, 85)
    world.roll_out()
    world.cluster.update(DEPLOYMENT, "chat", status={})
    world.looks = ()
    world.settle()
    assert (world.desired, world.replicas) == (3, 3)


def test_bounds_hold_at_once() -> None:
    world = Scaled()
    world.change(CHAT, **autoscaled(minReplicas=3))
    world.settle()
    assert (world.desired, world.replicas) == (3, 3)
    assert "minReplicas is 3" in world.status(CHAT)["autoscaling"]["message"]
    world.change(CHAT, **autoscaled(maxReplicas=1))
    world.settle()
    assert world.desired == 1


def test_metrics_that_are_gone_freeze_and_are_told_of_once() -> None:
    world = Scaled()
    world.measure(40, 40)
    assert world.told("ScalingActive")[0] == reasons.METRICS_FOUND
    for _ in range(3):
        world.measure(40, None, seconds=600)
    assert world.desired == 2
    reason, message = world.told("ScalingActive")
    assert reason == reasons.GPU_METRICS_MISSING
    assert "nobody tells gpuUtilization of 1 replica" in message
    assert "DCGM exporter" in message
    assert world.condition(CHAT, "Ready") == ("True", reasons.SERVING)
    assert world.reasons().count(reasons.GPU_METRICS_MISSING) == 1
    world.measure(100, None)
    assert world.desired == 3, "what is told still adds replicas"
    world.roll_out()
    world.measure(50, 50, 50)
    assert world.told("ScalingActive")[0] == reasons.METRICS_FOUND
    assert world.reasons().count(reasons.METRICS_FOUND) == 1


@pytest.mark.parametrize(
    ("down", "desired"),
    [({}, 1), ({"tolerancePercent": 10}, 2), ({"stepReplicas": 0, "stepPercent": 0}, 2),
     ({"stabilizationWindowSeconds": 900}, 2)],
)  # fmt: skip
def test_replicas_go_as_the_behavior_says(down: dict[str, int], desired: int) -> None:
    world = Scaled({"behavior": {"scaleDown": down}})
    world.measure(40, 40, seconds=300)
    assert world.desired == desired


def test_the_load_of_too_many_is_told_and_held_at_the_most() -> None:
    world = Scaled({"maxReplicas": 2})
    world.measure(100, 100)
    assert world.desired == 2
    assert world.told("ScalingLimited")[0] == reasons.TOO_MANY_REPLICAS
    world.measure(40, 40)
    assert world.told("ScalingLimited")[0] == reasons.WITHIN_RANGE


def test_steady_measurements_write_nothing() -> None:
    world = Scaled()
    world.measure(60, 60)

    def version() -> str:
        return str(world.cluster.objects[DEPLOYMENT, "chat"]["metadata"]["resourceVersion"])

    before = version()
    for percent in (55, 62, 70, 58, 51):
        world.measure(percent, percent)
    assert version() == before
    world.measure(30, 30)
    assert version() != before, "a quarter of the target is news"


def test_what_was_said_of_it_goes_with_it() -> None:
    world = Scaled()
    world.measure(60, 60)
    world.change(CHAT, autoscaling=None, replicas=1)
    world.settle()
    world.roll_out()
    known = world.status(CHAT)
    assert "autoscaling" not in known
    assert {c["type"] for c in known["conditions"]}.isdisjoint({"ScalingActive", "ScalingLimited"})
    assert world.replicas == 1


def test_without_an_engine_the_number_is_held() -> None:
    world = Scaled()
    world.measure(85, 85)
    world.cluster.remove(TINY.kind, TINY.name)
    world.measure(100, 100, 100)
    assert world.desired == 3
    assert world.told("ScalingActive")[0] == reasons.ENGINE_NOT_FOUND
    assert world.replicas == 3


def test_a_rollout_brings_as_many_as_were_decided() -> None:
    world = Scaled()
    world.measure(85, 85)
    world.roll_out()
    world.change(CHAT, runtime=GPUS | {"drainSeconds": 7})
    for _ in range(12):
        world.settle()
        for workload in world.cluster.workloads():
            world.cluster.roll_out(workload)
            assert world.replicas <= 4
    assert (world.desired, world.replicas) == (3, 3)
    assert world.condition(CHAT, "Ready") == ("True", reasons.SERVING)


def test_a_paused_rollout_goes_on_scaling() -> None:
    world = Scaled(rollout={"paused": True})
    world.change(CHAT, runtime=GPUS | {"drainSeconds": 7})
    world.settle()
    world.measure(85, 85)
    assert world.replicas == 3


def test_nothing_is_decided_where_nobody_asked() -> None:
    world = World(HUB, limit=0)
    for _ in range(8):
        world.work_on()
    world.looks = (Look(0.0, (Replica(gpu=100),) * 2),)
    before = world.cluster.writes
    world.settle()
    assert world.cluster.writes == before
    assert "autoscaling" not in world.status(CHAT)


def test_a_time_that_nobody_can_read_is_none() -> None:
    world = Scaled()
    known = world.status(CHAT)
    odd = known["autoscaling"] | {"lastScaleTime": "yesterday"}
    world.cluster.update(DEPLOYMENT, "chat", status=known | {"autoscaling": odd})
    world.measure(85, 85)
    assert world.desired == 3
    told = world.status(CHAT)["autoscaling"]["lastScaleTime"]
    assert datetime.fromisoformat(told) <= world.now.astimezone(UTC)


# What is told elsewhere.


def gauge(world: World, name: str, **labels: str) -> float | None:
    return world.metrics.registry.get_sample_value(f"pitcrew_operator_autoscaling_{name}", labels)


def test_the_operator_counts_decisions_and_tells_the_numbers() -> None:
    world, chat = Scaled(), {"namespace": NAMESPACE, "deployment": "chat"}
    world.measure(85, 85)
    assert gauge(world, "desired_replicas", **chat) == 3
    assert gauge(world, "ready_replicas", **chat) == 2
    assert gauge(world, "decisions_total", direction="up") == 1
    world.roll_out()
    assert gauge(world, "ready_replicas", **chat) == 3
    assert gauge(world, "decisions_total", direction="up") == 1
    world.cluster.remove(DEPLOYMENT, "chat")
    world.settle()
    assert gauge(world, "desired_replicas", **chat) is None


def test_kubectl_pitcrew_tells_what_was_decided_and_why() -> None:
    world = Scaled()
    world.measure(85, 85)
    world.roll_out()
    world.measure(50, None, 50)
    subject = Subject(DEPLOYMENT, world.cluster.objects[DEPLOYMENT, "chat"])
    lines = status.detail(subject, world.now)
    text = "\n".join(lines)
    assert "  replicas   3 ready of 3" in lines
    assert "scaling    1 to 4; 1m ago: gpuUtilization is 85 %, with a target of 80 %" in text
    assert "gpuUtilization 50 of 80, asks for 3" in text
    assert "ScalingActive=False: GpuMetricsMissing" in text
    (row,) = (line for line in status.overview([], [subject.raw], world.now) if "Serving" in line)
    assert "3/3" in row
    why = "\n".join(explain.explain(subject, explain.Evidence(), world.now))
    assert "ScalingActive=False: GpuMetricsMissing" in why
    assert "Last scaled 1m ago: gpuUtilization is 85 %" in why


def test_gpu_utilization_on_cpus_is_said_to_have_no_meaning() -> None:
    world = Scaled({"gpuUtilization": {"targetPercent": 70}})
    world.change(CHAT, runtime={})
    for _ in range(6):
        world.settle()
        world.roll_out()
    told = (Replica(waiting=0.0, running=1.0),) * 2
    world.looks = (Look(0.0, told),)
    world.settle()
    reason, message = world.told("ScalingActive")
    assert reason == reasons.METRICS_FOUND
    assert message.startswith(
        "the number of replicas follows waitingRequests; gpuUtilization has no"
    )
    world.now += timedelta(minutes=10)
    world.looks = tuple(Look(15.0 * n, (Replica(waiting=12.0, running=8.0),) * 2) for n in range(3))
    world.settle()
    assert world.desired == 4
    assert (
        "waitingRequests is 12, with a target of 5" in world.status(CHAT)["autoscaling"]["message"]
    )
