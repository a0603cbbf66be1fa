"""plan_deployment as a table: what is seen → what is told and done."""

from dataclasses import replace
from typing import Any

import pytest

from pitcrew_operator import reasons
from pitcrew_operator.api.deployment import LLMDeploymentStatus
from pitcrew_operator.kinds import SERVICE, Raw
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL, REVISION_LABEL, WORKER_LABEL
from pitcrew_operator.manifests.pod_group import PodGroup
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.plan import beside
from pitcrew_operator.plan.actions import Action, Apply, Ask, Emit, Patch, Requeue, WriteStatus
from pitcrew_operator.plan.beside import Beside
from pitcrew_operator.plan.conditions import (
    Health,
    Situation,
    conditions,
    find,
    reconciling,
    stalled,
)
from pitcrew_operator.plan.deployment import DeploymentSeen, plan_deployment
from pitcrew_operator.plan.questions import ComparePods
from pitcrew_operator.plan.target import target_of
from pitcrew_operator.views import Deployment, Engine, Pod, pod_of
from tests.unit.operator.factories import (
    CONFIG,
    ENGINE_STATUS,
    NAMESPACE,
    NOW,
    container,
    deployment,
    engine,
    pod_raw,
    revision,
    terminated,
    workload_manifest,
)

ENGINE = engine(status={"engine": ENGINE_STATUS})
CHILDREN = ["Service", "PodDisruptionBudget", "Deployment"]


def workload(owner: Deployment, **status: object) -> dict[str, Any]:
    """The child as the server holds it, with defaults added and a status."""
    document = workload_manifest(owner)
    document["metadata"] = document["metadata"] | {"uid": "uid-workload", "generation": 3}
    document["spec"] = document["spec"] | {"paused": False}
    return document | {"status": {"observedGeneration": 3} | status}


def counts(n: int, **more: object) -> dict[str, object]:
    """A Deployment status in which everything is at n."""
    fields = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    return dict.fromkeys(fields, n) | more


def seen(owner: Deployment, child: Raw, *pods: Pod) -> DeploymentSeen:
    target = target_of(owner, ENGINE, CONFIG)
    return DeploymentSeen(target, (child,), in_place(owner), pods, proves_service=False)


def begun(owner: Deployment, source: Engine | None = None) -> DeploymentSeen:
    """Nothing is there but, perhaps, an engine."""
    return DeploymentSeen(target_of(owner, source, CONFIG))


def in_place(owner: Deployment) -> Beside:
    """All that is wanted beside the pods, as the server holds it."""
    return Beside(beside.wanted(owner))


def pod(status: dict[str, Any]) -> Pod:
    labels = revision(deployment()).selector
    return pod_of(pod_raw("p", labels, **status))


def plan(owner: Deployment, found: DeploymentSeen) -> list[Action]:
    return plan_deployment(owner, found, NOW)


def plan_first(owner: Deployment, source: Engine | None) -> list[Action]:
    return plan(owner, begun(owner, source))


def status_of(actions: list[Action]) -> LLMDeploymentStatus:
    (written,) = [action.status for action in actions if isinstance(action, WriteStatus)]
    assert isinstance(written, LLMDeploymentStatus)
    return written


def told(actions: list[Action]) -> tuple[Health, str, str]:
    conditions = status_of(actions).conditions
    (true,) = [c for c in conditions if c.status == "True" and c.type in set(Health)]
    ready = find(conditions, Health.READY)
    assert ready is not None
    return Health(true.type), true.reason, ready.message


def applied(actions: list[Action]) -> list[str]:
    return [action.manifest["kind"] for action in actions if isinstance(action, Apply)]


def test_missing_engine_is_awaited() -> None:
    actions = plan_first(deployment(), None)
    assert applied(actions) == []
    health, reason, message = told(actions)
    assert (health, reason) == (Health.RECONCILING, reasons.ENGINE_NOT_FOUND)
    assert f"namespace {NAMESPACE}" in message


def test_engine_without_result_is_awaited() -> None:
    actions = plan_first(deployment(), engine())
    assert applied(actions) == []
    assert told(actions)[:2] == (Health.RECONCILING, reasons.ENGINE_NOT_READY)


def test_only_an_engine_that_needs_somebody_is_told_of_while_it_is_awaited() -> None:
    def message(situation: Situation) -> str:
        known = conditions(situation, 1, (), NOW)
        raw = {"conditions": [each.model_dump(by_alias=True) for each in known]}
        return told(plan_first(deployment(), engine(status=raw)))[2]

    resolving = message(reconciling(reasons.RESOLVING, "a Job asks"))
    assert resolving == message(reconciling(reasons.BUILDING, "a Job builds"))
    assert reasons.DOES_NOT_FIT in message(stalled(reasons.DOES_NOT_FIT, "too large"))


def test_world_size_mismatch_names_both_numbers_and_the_remedy() -> None:
    actions = plan_first(deployment({"worldSize": 2}), ENGINE)
    assert applied(actions) == []
    health, reason, message = told(actions)
    assert (health, reason) == (Health.STALLED, reasons.WORLD_SIZE_MISMATCH)
    assert "worldSize is 2" in message
    assert "world size 1" in message
    assert "set spec.worldSize to 1" in message


OLD = ENGINE_STATUS | {"id": "0a" * 32, "tag": "tiny-old"}


def version(status: dict[str, Any], phase: str = "Ready") -> dict[str, Any]:
    known = {"key": status["id"][:12], "specHash": "s", "targetTag": "t", "jobName": "j"}
    when = {"commit": "c", "startedAt": "2026-11-01T11:00:00Z"}
    return known | when | {"phase": phase, "id": status["id"], "engine": status}


VERSIONS = engine(
    status={"engine": ENGINE_STATUS, "versions": [version(ENGINE_STATUS), version(OLD)]}
)
RETIRED = engine(
    status={"engine": ENGINE_STATUS, "versions": [version(ENGINE_STATUS), version(OLD, "Retired")]}
)


def pinned(version: str) -> Deployment:
    return deployment({"engineRef": {"name": "tiny", "version": version}})


@pytest.mark.parametrize("digits", [12, 64])
def test_a_version_that_is_named_is_served(digits: int) -> None:
    status = status_of(plan_first(pinned(OLD["id"][:digits]), VERSIONS))
    assert status.engine is not None
    assert (status.engine.id, status.engine.tag) == (OLD["id"], "tiny-old")


@pytest.mark.parametrize(("source", "name"), [(VERSIONS, "f" * 12), (RETIRED, OLD["id"])])
def test_a_version_that_is_not_there_is_told_with_those_that_are(source: Engine, name: str) -> None:
    actions = plan_first(pinned(name), source)
    assert applied(actions) == []
    health, reason, message = told(actions)
    assert (health, reason) == (Health.STALLED, reasons.VERSION_NOT_FOUND)
    assert ENGINE_STATUS["id"][:12] in message


def test_what_was_served_before_is_told() -> None:
    before = {"engine": {"name": "tiny", "id": OLD["id"], "tag": "tiny-old"}}
    status = status_of(plan_first(deployment(status=before), VERSIONS))
    assert status.previous_engine is not None
    assert status.previous_engine.id == OLD["id"]
    settled = replace(deployment(), status=status)
    changed = plan_first(replace(settled, spec=deployment({"replicas": 5}).spec), VERSIONS)
    still = [a.status for a in changed if isinstance(a, WriteStatus)]
    assert all(s.previous_engine == status.previous_engine for s in still)  # type: ignore[union-attr]


def test_a_pod_has_a_gpu_for_each_rank() -> None:
    on_gpus = engine(status={"engine": ENGINE_STATUS | {"cuda": "13", "worldSize": 2}})
    limits = {"runtime": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    health, reason, message = told(plan_first(deployment(limits), on_gpus))
    assert (health, reason) == (Health.STALLED, reasons.GPU_COUNT_MISMATCH)
    assert "is 1" in message
    assert "set it to 2" in message
    enough = {"runtime": {"resources": {"limits": {"nvidia.com/gpu": "2"}}}}
    assert applied(plan_first(deployment(enough), on_gpus))


def test_children_are_created_once_there_is_an_engine() -> None:
    actions = plan_first(deployment(), ENGINE)
    assert applied(actions) == CHILDREN
    status = status_of(actions)
    assert status.url == "http://chat.models.svc"
    assert status.selector == "pitcrew.dev/deployment=chat"
    assert status.engine is not None
    assert status.engine.id == ENGINE_STATUS["id"]
    assert told(actions)[:2] == (Health.RECONCILING, reasons.ROLLING_OUT)


def test_engine_is_served_while_its_next_version_is_built() -> None:
    building = engine(status={"engine": ENGINE_STATUS, "progress": "Graph 10%"}, generation=2)
    assert applied(plan_first(deployment(), building)) == CHILDREN


WIDE = engine(status={"engine": ENGINE_STATUS | {"worldSize": 4}})


def test_groups_are_made_where_the_cluster_knows_them() -> None:
    owner = deployment({"ranksPerPod": 2})
    lacking = plan(owner, begun(owner, WIDE))
    assert applied(lacking) == []
    health, reason, message = told(lacking)
    assert (health, reason) == (Health.STALLED, reasons.LEADER_WORKER_SET_MISSING)
    assert "takes 2 pods" in message
    assert "install the LeaderWorkerSet controller" in message
    assert "leave spec.ranksPerPod out" in message
    assert any(isinstance(action, Requeue) for action in lacking)
    made = plan(owner, replace(begun(owner, WIDE), has_groups=True))
    assert applied(made) == ["Service", "PodDisruptionBudget", "LeaderWorkerSet"]


def test_groups_are_counted_as_replicas() -> None:
    owner = deployment({"ranksPerPod": 2})
    target = target_of(owner, WIDE, CONFIG)
    assert isinstance(target, Revision)
    child = PodGroup().manifest(target, 2)
    child["metadata"] = child["metadata"] | {"uid": "uid-group", "generation": 1}
    around = Beside(beside.wanted(owner, 2))
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2}
    for ready, reason in ((1, reasons.ROLLING_OUT), (2, reasons.SERVING)):
        counted = child | {"status": status | {"readyReplicas": ready}}
        found = DeploymentSeen(target, (counted,), around, has_groups=True, proves_service=False)
        actions = plan(owner, found)
        assert applied(actions) == []
        assert told(actions)[1] == reason
        assert status_of(actions).ready_replicas == ready


def test_only_the_pods_of_a_group_that_answer_are_compared() -> None:
    canary = {"steps": [{"weight": 50}], "analysis": {}}
    spec = {"ranksPerPod": 2, "rollout": {"canary": canary}}
    new, old = (
        target_of(deployment(more), WIDE, CONFIG)
        for more in (spec, spec | {"servedModelName": "b"})
    )
    assert isinstance(new, Revision)
    assert isinstance(old, Revision)
    record = {"phase": "Canary", "revision": new.hash, "stable": old.hash, "step": 1}
    owner = deployment(spec, {"rollout": record})

    def group(revision: Revision) -> Raw:
        made = PodGroup().manifest(revision, 1)
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 1)
        metadata = made["metadata"] | {"uid": revision.hash, "generation": 1}
        return {**made, "metadata": metadata, "status": counts | {"observedGeneration": 1}}

    def member(name: str, label: str, ip: str) -> Pod:
        labels = {label: "chat", REVISION_LABEL: new.hash}
        serving = {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}
        return pod_of(pod_raw(name, labels, **container("running"), **serving))

    pods = (
        member("leader", DEPLOYMENT_LABEL, "10.0.0.1"),
        member("worker", WORKER_LABEL, "10.0.0.2"),
    )
    found = DeploymentSeen(
        new, (group(new), group(old)), Beside(beside.wanted(owner, 2)), pods, has_groups=True
    )
    (asked,) = [action.question for action in plan(owner, found) if isinstance(action, Ask)]
    assert isinstance(asked, ComparePods)
    assert asked.canary == ("http://10.0.0.1:8000",)


def test_ranks_that_do_not_fill_their_pods_are_refused() -> None:
    owner = deployment({"ranksPerPod": 3})
    health, reason, message = told(plan(owner, begun(owner, WIDE)))
    assert (health, reason) == (Health.STALLED, reasons.WORLD_SIZE_MISMATCH)
    assert "spec.ranksPerPod is 3" in message
    assert "set it to one of 1, 2, 4" in message


def test_name_of_the_model_for_clients() -> None:
    named = engine(
        {"model": {"name": "kjv", "volume": {"claimName": "c", "path": "p"}}},
        {"engine": ENGINE_STATUS},
    )
    for owner, source, expected in (
        (deployment(), ENGINE, "tiny"),
        (deployment(), named, "kjv"),
        (deployment({"servedModelName": "mine"}), named, "mine"),
    ):
        actions = plan_first(owner, source)
        child = next(
            a.manifest for a in actions if isinstance(a, Apply) and "template" in a.manifest["spec"]
        )
        arguments = child["spec"]["template"]["spec"]["containers"][0]["args"]
        assert arguments[arguments.index("--served-model-name") + 1] == expected


def test_ready_when_all_pods_are_new_and_available() -> None:
    owner = deployment()
    actions = plan(owner, seen(owner, workload(owner, **counts(2))))
    assert applied(actions) == []
    assert told(actions)[:2] == (Health.READY, reasons.SERVING)
    assert status_of(actions).ready_replicas == 2


@pytest.mark.parametrize(
    "status",
    [
        counts(2, observedGeneration=2),
        counts(2, updatedReplicas=1),
        counts(2, replicas=3),
        counts(2, availableReplicas=1),
        counts(2, readyReplicas=1),
        counts(3),
        {},
    ],
    ids=["stale", "old pod serves", "old pod stays", "unavailable", "unready", "surplus", "none"],
)
def test_not_ready_while_anything_is_under_way(status: dict[str, object]) -> None:
    owner = deployment()
    actions = plan(owner, seen(owner, workload(owner, **status)))
    assert told(actions)[:2] == (Health.RECONCILING, reasons.ROLLING_OUT)


def test_zero_replicas_are_ready() -> None:
    owner = deployment({"replicas": 0})
    actions = plan(owner, seen(owner, workload(owner)))
    assert told(actions)[:2] == (Health.READY, reasons.SCALED_TO_ZERO)


TROUBLE: list[tuple[str, dict[str, Any], Health, str, str]] = [
    ("refused start", terminated("EngineCorrupt: digest of rank0/model.onnx differs", 2, "Error"),
     Health.STALLED, "EngineCorrupt", "digest of rank0"),
    ("crash with words", terminated("CanaryMismatch: tokens differ", 1, "Error"),
     Health.RECONCILING, "CanaryMismatch", "tokens differ"),
    ("crash", terminated("Traceback", 1, "Error"), Health.RECONCILING, "PodFailing", "kubectl logs"),
    ("memory", terminated("", 137, "OOMKilled"), Health.RECONCILING, "OutOfMemory", "kvMemory"),
    ("image", container("waiting", reason="ErrImagePull", message="no"), Health.RECONCILING,
     "ImagePullFailed", "tag"),
    ("loading", container("running"), Health.RECONCILING, "RollingOut", "0 of 2"),
    ("restarted", {"containerStatuses": [{"name": "main", "state": {"running": {}}, "lastState":
     {"terminated": {"exitCode": 2, "message": "OutOfKvMemory: 1 page"}}}]},
     Health.STALLED, "OutOfKvMemory", "1 page"),
    ("no device", {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message":
     "no healthy devices present"}, Health.RECONCILING, "PodLost", "no healthy devices present"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "status", "health", "reason", "hint"), TROUBLE, ids=[t[0] for t in TROUBLE]
)
def test_trouble_of_pods_reaches_the_condition(
    case: str, status: dict[str, Any], health: Health, reason: str, hint: str
) -> None:
    owner = deployment()
    child = workload(owner, replicas=2, updatedReplicas=2)
    actions = plan(owner, seen(owner, child, pod(status)))
    found = told(actions)
    assert found[:2] == (health, reason), case
    assert hint in found[2]
    (event,) = (action for action in actions if isinstance(action, Emit))
    assert event.type == ("Normal" if case == "loading" else "Warning")


def test_a_pod_that_was_evicted_is_no_trouble_of_those_after_it() -> None:
    owner = deployment()
    child = workload(owner, replicas=2, updatedReplicas=2)
    box = {"name": "main", "state": {"terminated": {"exitCode": 137}}, "restartCount": 3}
    gone = pod({"phase": "Failed", "reason": "Evicted", "containerStatuses": [box]})
    here = replace(pod(container("running")), created="2026-11-01T11:30:00Z")
    assert told(plan(owner, seen(owner, child, gone, here)))[1] == reasons.ROLLING_OUT


def test_pods_that_the_api_server_refuses_are_told() -> None:
    owner = deployment()
    message = 'pods "chat-1" is forbidden: no PriorityClass with name urgent was found'
    refusal = {"type": "ReplicaFailure", "status": "True", "message": message}
    child = workload(owner, replicas=0, updatedReplicas=0, conditions=[refusal])
    health, reason, told_of = told(plan(owner, seen(owner, child)))
    assert (health, reason) == (Health.RECONCILING, reasons.PODS_REFUSED)
    assert message in told_of
    assert "spec.runtime" in told_of


def test_second_plan_over_the_written_status_is_empty() -> None:
    owner = deployment()
    found = seen(owner, workload(owner, **counts(2)))
    settled = replace(owner, status=status_of(plan(owner, found)))
    assert plan(settled, found) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"servedModelName": "other"},
        {"runtime": {"image": "x:2"}},
        {"runtime": {"nodeSelector": {"a": "b"}}},
        {"runtime": {"kvMemory": "1Gi"}},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_changed_spec_is_another_revision_and_so_is_its_withdrawal(spec: dict[str, Any]) -> None:
    plain, changed = deployment(), deployment(spec)
    for owner, before in ((changed, plain), (plain, changed)):
        actions = plan(owner, seen(owner, workload(before, **counts(2))))
        (made,) = [a.manifest for a in actions if isinstance(a, Apply)]
        assert made["metadata"]["name"] != workload(before)["metadata"]["name"]
        assert made["spec"]["replicas"] == 1
        assert scaled(actions) == []


def scaled(actions: list[Action]) -> list[int]:
    return [a.fields["spec"]["replicas"] for a in actions if isinstance(a, Patch)]


def test_number_of_replicas_is_no_part_of_a_revision() -> None:
    plain, larger = deployment(), deployment({"replicas": 5})
    actions = plan(larger, seen(larger, workload(plain, **counts(2))))
    assert applied(actions) == []
    assert scaled(actions) == [5]


def test_number_that_drifted_is_put_right() -> None:
    owner = deployment()
    child = workload(owner, **counts(7))
    child["spec"] = child["spec"] | {"replicas": 7}
    actions = plan(owner, seen(owner, child))
    assert applied(actions) == []
    assert scaled(actions) == [2]


def test_workload_that_drifted_is_put_right() -> None:
    owner = deployment()
    child = workload(owner, **counts(2))
    child["spec"] = child["spec"] | {"minReadySeconds": 30}
    assert applied(plan(owner, seen(owner, child))) == ["Deployment"]


def test_quantities_that_the_server_rewrites_are_no_drift() -> None:
    owner = deployment(
        {"runtime": {"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}}}}
    )
    child = workload(owner, **counts(2))
    box = child["spec"]["template"]["spec"]["containers"][0]
    box["resources"] = {"requests": {"cpu": "1", "memory": "1Gi"}}
    assert applied(plan(owner, seen(owner, child))) == []


def test_namesake_of_somebody_else_is_left_alone() -> None:
    owner = deployment()
    foreign = {"kind": "Service", "metadata": {"name": "chat", "namespace": NAMESPACE, "uid": "x"}}
    actions = plan(
        owner, replace(begun(owner, ENGINE), beside=Beside({(SERVICE, "chat"): foreign}))
    )
    assert applied(actions) == []
    health, reason, message = told(actions)
    assert (health, reason) == (Health.STALLED, reasons.NAME_CONFLICT)
    assert "Service chat" in message
    assert [a for a in actions if isinstance(a, Requeue)]


def test_child_of_a_deleted_namesake_is_awaited() -> None:
    owner = deployment(uid="second-life")
    actions = plan(owner, seen(owner, workload(deployment(uid="first-life"), **counts(2))))
    assert applied(actions) == []
    assert told(actions)[:2] == (Health.RECONCILING, reasons.WAITING_FOR_DELETION)


def test_unreadable_kv_memory_is_told() -> None:
    actions = plan_first(deployment({"runtime": {"kvMemory": "much"}}), ENGINE)
    health, reason, message = told(actions)
    assert (health, reason) == (Health.STALLED, reasons.INVALID_SPEC)
    assert "kvMemory" in message


def test_nothing_is_done_for_a_deployment_on_its_way_out() -> None:
    owner = deployment(deletionTimestamp="2026-11-01T11:00:00Z")
    assert plan_first(owner, ENGINE) == []
