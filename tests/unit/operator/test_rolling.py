"""Rollouts through plan_deployment: what is written, asked and told at each stage."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pitcrew_operator import reasons
from pitcrew_operator.kinds import SERVICE
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.plan import beside
from pitcrew_operator.plan.actions import Action, Ask, Emit, Patch, Requeue
from pitcrew_operator.plan.beside import Beside
from pitcrew_operator.plan.conditions import Health, find
from pitcrew_operator.plan.deployment import plan_deployment
from pitcrew_operator.plan.questions import Answer, ComparePods, Proven, ProveService
from pitcrew_operator.plan.rollout.analysis import Agreement, Evidence, Sample
from pitcrew_operator.plan.seen import DeploymentSeen
from pitcrew_operator.plan.target import target_of
from pitcrew_operator.views import Deployment, Pod, pod_of
from tests.unit.operator.factories import (
    CONFIG,
    ENGINE_STATUS,
    NOW,
    deployment,
    engine,
    pod_raw,
    revision,
    terminated,
    workload_manifest,
)
from tests.unit.operator.test_plan_deployment import counts, status_of, told

ENGINE = engine(status={"engine": ENGINE_STATUS})
OLD = {"id": "0a" * 32, "tag": "tiny-old"}
GOLDEN = {"prompts": ["one"], "minAgreement": "0.9"}
CANARY = {
    "canary": {
        "steps": [{"replicas": 1, "holdSeconds": 60}],
        "analysis": {"minRequests": 5, "golden": GOLDEN},
    }
}


class Cluster:
    """What is there for one deployment: replicas of the old engine and of the new one."""

    def __init__(self, old: int, new: int | None, **spec: object) -> None:
        owner = deployment(spec)
        self.old, self.new = revision(owner, **OLD), revision(owner)
        known = {"phase": "Complete", "revision": self.old.hash, "stable": self.old.hash}
        served = {"name": "tiny", **OLD}
        self.owner = deployment(spec, {"rollout": known, "engine": served})
        self.children = [self._workload(old, **OLD)] if old else []
        self.children += [self._workload(new)] if new is not None else []
        self.pods: tuple[Pod, ...] = ()
        self.answers: dict[str, Answer] = {}
        self.watched = timedelta.max

    def _workload(self, n: int, **engine_fields: object) -> dict[str, Any]:
        document = workload_manifest(self.owner, **engine_fields)
        document["metadata"] |= {"uid": "uid-w", "generation": 1, "resourceVersion": "7"}
        document["spec"] |= {"replicas": n}
        return document | {"status": {"observedGeneration": 1, **counts(n)}}

    def pod(self, of: Revision, ip: str, **status: Any) -> Pod:  # noqa: ANN401 (any JSON value)
        ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": ip}
        return pod_of(pod_raw(f"p-{ip}", of.selector, **(status or ready)))

    def plan(self, seconds: int = 0) -> list[Action]:
        service = beside.wanted(self.owner)
        around = {place: dict(raw) for place, raw in service.items()}
        raw = around[SERVICE, "chat"]
        around[SERVICE, "chat"] = raw | {"spec": raw["spec"] | {"clusterIP": "10.96.0.9"}}
        target = target_of(self.owner, ENGINE, CONFIG)
        seen = DeploymentSeen(
            target,
            tuple(self.children),
            Beside(around),
            self.pods,
            answers=self.answers,
            watched=self.watched,
        )
        actions = plan_deployment(self.owner, seen, NOW.replace(minute=seconds // 60))
        self.settle(actions)
        return actions

    def settle(self, actions: list[Action]) -> None:
        written = [a for a in actions if type(a).__name__ == "WriteStatus"]
        if written:
            self.owner = replace(self.owner, status=status_of(actions))


def asked(actions: list[Action]) -> list[object]:
    return [a.question for a in actions if isinstance(a, Ask)]


def scaled(actions: list[Action]) -> dict[str, int]:
    return {a.meta.name: a.fields["spec"]["replicas"] for a in actions if isinstance(a, Patch)}


def fact(owner: Deployment) -> tuple[str, str]:
    found = find(owner.status.conditions, "UpToDate")
    assert found is not None
    return found.status, found.reason


def test_ready_waits_for_an_answer_through_the_service() -> None:
    cluster = Cluster(0, 2)
    actions = cluster.plan()
    assert told(actions)[:2] == (Health.RECONCILING, reasons.PROVING_SERVICE)
    (question,) = asked(actions)
    assert question == ProveService("http://10.96.0.9", cluster.new.hash, ENGINE_STATUS["id"])
    cluster.answers = {question.subject: Proven("no answer through the Service: refused")}
    actions = cluster.plan()
    assert told(actions)[:2] == (Health.RECONCILING, reasons.SERVICE_UNREACHABLE)
    assert asked(actions) == [question]
    assert [a.seconds for a in actions if isinstance(a, Requeue)] == [2.0]
    cluster.answers = {question.subject: Proven("no answer through the Service: refused", tries=9)}
    assert [a.seconds for a in cluster.plan() if isinstance(a, Requeue)] == [60.0]
    cluster.answers = {question.subject: Proven(None)}
    actions = cluster.plan()
    assert told(actions)[:2] == (Health.READY, reasons.SERVING)
    assert asked(actions) == []
    cluster.answers = {}
    assert cluster.plan() == []


def test_what_serves_is_told_until_the_new_engine_serves_alone() -> None:
    cluster = Cluster(2, 1)
    status = status_of(cluster.plan())
    assert status.engine is not None
    assert (status.engine.id, status.previous_engine) == (OLD["id"], None)
    assert status.rollout is not None
    assert (status.rollout.phase, status.rollout.weight) == ("Progressing", 33)
    assert fact(cluster.owner) == ("False", reasons.ROLLING_OUT)
    cluster.children = [cluster._workload(2)]
    status = status_of(cluster.plan())
    assert status.engine is not None
    assert status.previous_engine is not None
    assert (status.engine.id, status.previous_engine.id) == (ENGINE_STATUS["id"], OLD["id"])
    assert fact(cluster.owner) == ("True", reasons.UP_TO_DATE)


def held_canary() -> tuple[Cluster, ComparePods]:
    """One new replica beside one old, in the first step, with a question under way."""
    cluster = Cluster(1, 1, rollout=CANARY)
    cluster.pods = (
        cluster.pod(cluster.new, "10.0.0.1"),
        cluster.pod(cluster.old, "10.0.0.2"),
    )
    cluster.plan()
    (question,) = asked(cluster.plan())
    assert isinstance(question, ComparePods)
    return cluster, question


def test_a_canary_is_compared_with_the_stable_pods() -> None:
    cluster, question = held_canary()
    assert (question.canary, question.stable) == (
        ("http://10.0.0.1:8000",),
        ("http://10.0.0.2:8000",),
    )
    assert question.prompts == ("one",)
    found = find(cluster.owner.status.conditions, Health.RECONCILING)
    assert found is not None
    assert found.reason == reasons.CANARY
    assert "step 1 of 1: 1 of 2 replicas" in found.message
    assert "the first measurement is under way" in found.message


def test_a_good_canary_goes_on_and_a_bad_one_goes_back() -> None:
    cluster, question = held_canary()
    good = Evidence(Sample(requests=9), Sample(requests=9), Agreement(10, 10))
    cluster.answers = {question.subject: good}
    assert scaled(cluster.plan(59)) == {}
    assert scaled(cluster.plan(60)) == {cluster.new.name: 2}

    cluster, question = held_canary()
    cluster.answers = {question.subject: replace(good, agreement=Agreement(1, 10))}
    actions = cluster.plan()
    assert scaled(actions) == {cluster.old.name: 2}, "the bad one goes when another serves"
    health, reason, message = told(actions)
    assert (health, reason) == (Health.RECONCILING, reasons.ROLLING_BACK)
    assert "10.0% of the tokens agree" in message
    assert [a.type for a in actions if isinstance(a, Emit)] == ["Warning"]


def given_up(**spec: object) -> Cluster:
    """The new engine's pod was refused for good, and the old ones serve again."""
    cluster = Cluster(2, 1, **spec)
    words = terminated("CanaryMismatch: other tokens", 2, "Error")
    cluster.pods = (cluster.pod(cluster.new, "10.0.0.1", **words),)
    cluster.plan()
    assert fact(cluster.owner) == ("False", reasons.ROLLED_BACK)
    cluster.pods = ()
    cluster.children = [cluster._workload(2, **OLD), cluster._workload(0)]
    return cluster


def test_a_change_of_the_users_own_that_failed_is_stalled() -> None:
    health, reason, message = told(given_up().plan())
    assert (health, reason) == (Health.STALLED, reasons.ROLLED_BACK)
    assert "CanaryMismatch: other tokens" in message
    assert "spec.rollout.trigger" in message


def test_a_new_engine_that_failed_leaves_ready_as_it_was() -> None:
    cluster = given_up()
    known = cluster.owner.status.rollout
    assert known is not None
    proven = Cluster(0, 2).plan()
    digest = status_of(proven).rollout
    assert digest is not None
    status = cluster.owner.status.model_copy(
        update={"rollout": known.model_copy(update={"stable_spec": digest.stable_spec})}
    )
    cluster.owner = replace(cluster.owner, status=status)
    assert told(cluster.plan())[:2] == (Health.READY, reasons.ROLLED_BACK)
    assert fact(cluster.owner) == ("False", reasons.ROLLED_BACK)


def test_what_failed_stays_failed_and_its_engine_is_told() -> None:
    cluster = given_up()
    cluster.plan()
    assert cluster.plan() == []
    failed = cluster.owner.status.rollout
    assert failed is not None
    assert failed.failed is not None
    assert (failed.failed.reason, failed.failed.engine) == ("CanaryMismatch", ENGINE_STATUS["tag"])


@pytest.mark.parametrize("restarts", [2, 3])
def test_a_start_that_fails_again_and_again_is_hopeless(restarts: int) -> None:
    cluster = Cluster(2, 1)
    crash = {"exitCode": 1, "message": "Traceback", "reason": "Error"}
    box = {"name": "main", "state": {"terminated": crash}, "restartCount": restarts}
    cluster.pods = (cluster.pod(cluster.new, "10.0.0.1", containerStatuses=[box]),)
    phase = status_of(cluster.plan()).rollout
    assert phase is not None
    assert phase.phase == ("RollingBack" if restarts == 3 else "Progressing")


def test_scaling_goes_on_where_nobody_knows_what_to_roll_to() -> None:
    cluster = Cluster(2, None, replicas=4)
    seen = DeploymentSeen(target_of(cluster.owner, None, CONFIG), tuple(cluster.children))
    actions = plan_deployment(cluster.owner, seen, NOW)
    assert scaled(actions) == {cluster.old.name: 4}
    assert told(actions)[1] == reasons.ENGINE_NOT_FOUND


def test_a_rollout_that_could_not_go_on_is_given_all_its_time_again() -> None:
    cluster = Cluster(2, 0)
    cluster.plan()
    assert cluster.owner.status.rollout is not None
    assert cluster.owner.status.rollout.progressed_at is not None
    nowhere = DeploymentSeen(target_of(cluster.owner, None, CONFIG), tuple(cluster.children))
    cluster.settle(plan_deployment(cluster.owner, nowhere, NOW))
    cluster.plan(seconds=3540)
    assert cluster.owner.status.rollout.phase == "Progressing"


@pytest.mark.parametrize(
    ("watched", "phase"), [(timedelta(seconds=9), "Progressing"), (timedelta.max, "RollingBack")]
)
def test_nobody_is_late_while_no_operator_was_there(watched: timedelta, phase: str) -> None:
    cluster = Cluster(2, 1)
    cluster.children[1]["status"] |= counts(0)
    cluster.plan()
    cluster.watched = watched
    cluster.plan(seconds=3540)
    assert cluster.owner.status.rollout is not None
    assert cluster.owner.status.rollout.phase == phase


def test_a_failure_that_may_not_go_back_is_told_with_what_to_do() -> None:
    cluster = Cluster(2, 1, rollout={"autoRollback": False})
    cluster.children[1]["status"] |= counts(0)
    cluster.plan()
    health, reason, message = told(cluster.plan(seconds=3540))
    assert (health, reason) == (Health.STALLED, "ProgressDeadlineExceeded")
    assert "spec.rollout.progressDeadlineSeconds" in message
    assert "spec.rollout.autoRollback is false" in message
