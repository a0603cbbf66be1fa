"""`kubectl pitcrew`: what it tells of a simulated cluster, and what it writes."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from pitcrew_operator.kinds import (
    DEPLOYMENT,
    ENGINE,
    INFERENCE_POOL,
    JOB,
    NODE,
    OPTIONAL,
    POD,
    Kind,
    Raw,
)
from pitcrew_operator.plugin import explain, logs, rollback, status
from pitcrew_operator.plugin.dry_run import plan
from pitcrew_operator.plugin.kubectl import Kubectl, PluginError
from pitcrew_operator.plugin.subject import Subject, named, of_kind
from pitcrew_operator.plugin.tables import age, table
from pitcrew_operator.reconcile import Key
from pitcrew_operator.views import COMPONENT_LABEL, Deployment, Engine, deployment_of, engine_of
from tests.property.operator.world import CHAT, HUB, TINY, World
from tests.unit.operator.factories import NAMESPACE, NOW, deployment_raw, engine_raw

OPERATOR: dict[str, Any] = {
    "metadata": {"name": "pitcrew"},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "env": [
                            {"name": "PITCREW_BUILDER_IMAGE", "value": "pitcrew/builder:1"},
                            {"name": "PITCREW_RUNTIME_IMAGE", "value": "pitcrew/runtime:1"},
                        ]
                    }
                ]
            }
        }
    },
}


@dataclass(frozen=True)
class SimulatedKubectl(Kubectl):
    """Answers from a simulated cluster; the user may read no nodes."""

    world: World = field(default_factory=lambda: World(HUB, limit=0))
    knows: frozenset[Kind] = frozenset()
    """Kinds of others."""

    def list(self, kind: Kind, selector: str | None = None) -> list[Raw]:
        if kind is NODE:
            raise PluginError("nodes is forbidden")
        if kind in OPTIONAL and kind not in self.knows:
            raise PluginError(f"the server doesn't have a resource type {kind.plural}")
        return [raw for (each, _), raw in self.world.cluster.objects.items() if each is kind]

    def find(self, kind: Kind, name: str) -> Raw | None:
        return self.world.cluster.objects.get((kind, name))

    def json(self, *words: str, stdin: str | None = None) -> dict[str, Any]:
        assert words[:2] == ("get", "deployments")
        return {"items": [OPERATOR]}


class OneNamespace(SimulatedKubectl):
    """Lists what is in the namespace of the engines alone."""

    def list(self, kind: Kind, selector: str | None = None) -> list[Raw]:
        return [r for r in super().list(kind, selector) if r["metadata"]["namespace"] == NAMESPACE]


class Mute(SimulatedKubectl):
    """The user may read no logs."""

    def run(self, *words: str, stdin: str | None = None) -> str:
        raise PluginError(f"pods/{words[0]} is forbidden")


@pytest.fixture
def kubectl() -> SimulatedKubectl:
    return SimulatedKubectl()


def settled(world: World, rounds: int = 12) -> World:
    for _ in range(rounds):
        world.work_on()
    return world


def subject(world: World, key: Key) -> Subject:
    return Subject(key.kind, world.cluster.objects[key.kind, key.name])


def text(lines: list[str]) -> str:
    return "\n".join(lines)


def planned(about: Subject, kubectl: SimulatedKubectl) -> str:
    return text(asyncio.run(plan(about, kubectl, kubectl, lambda: kubectl.world.now)))


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "LONG"), [["value", ""], ["", "x"]]) == [
        "A       LONG",
        "value   -",
        "-       x",
    ]


@pytest.mark.parametrize(
    ("since", "told"),
    [("2026-11-01T11:59:30Z", "30s"), ("2026-11-01T09:00:00Z", "3h"), (None, "")],
)
def test_ages(since: str | None, told: str) -> None:
    assert age(since, NOW) == told


def test_a_glance_tells_what_serves_and_the_words_of_what_does_not(
    kubectl: SimulatedKubectl,
) -> None:
    world = settled(kubectl.world)
    well = text(status.overview(kubectl.list(ENGINE), kubectl.list(DEPLOYMENT), NOW))
    assert "EngineReady" in well
    assert "Serving" in well
    assert "tiny-" in well
    world.change(CHAT, engineRef={"name": "absent"})
    world.settle()
    lines = status.overview(kubectl.list(ENGINE), kubectl.list(DEPLOYMENT), NOW)
    (trouble,) = [line for line in lines if line.startswith("llmdeployment/chat: ")]
    assert "EngineNotFound" in trouble


def test_what_no_operator_has_seen_is_told_so() -> None:
    lines = text(status.overview([engine_raw()], [deployment_raw()], NOW))
    assert lines.count("the operator has not seen it yet") == 2
    assert "was not seen by an operator" in text(
        explain.explain(Subject(ENGINE, engine_raw()), explain.Evidence(), NOW)
    )


def test_words_about_an_older_spec_are_told_so(kubectl: SimulatedKubectl) -> None:
    world = settled(kubectl.world)
    raw = world.cluster.objects[DEPLOYMENT, "chat"]
    newer = {**raw, "metadata": {**raw["metadata"], "generation": 99}}
    for raw_, is_old in ((raw, False), (newer, True)):
        about = Subject(DEPLOYMENT, raw_)
        for told in (
            status.overview([], [raw_], NOW),
            status.detail(about, NOW),
            explain.explain(about, explain.Evidence(), NOW),
        ):
            assert ("about an older spec" in text(told)) is is_old


def test_an_empty_namespace_is_no_empty_answer() -> None:
    assert status.overview([], [], NOW) == ["No LLMEngine and no LLMDeployment here."]


def test_detail_lists_versions_and_their_roles(kubectl: SimulatedKubectl) -> None:
    world = settled(kubectl.world)
    world.change(TINY, shapes={"maxBatchSize": 2})
    settled(world)
    lines = status.detail(subject(world, TINY), NOW)
    (current,) = [line for line in lines if " current " in line]
    (previous,) = [line for line in lines if " previous " in line]
    assert lines.index(current) < lines.index(previous)
    assert world.status(TINY)["current"][:12] in current
    assert "(" + world.status(CHAT)["engine"]["id"][:12] in text(
        status.detail(subject(world, CHAT), NOW)
    )


def test_a_spec_that_does_not_parse_is_explained() -> None:
    broken = Subject(ENGINE, engine_raw({"shapes": {"maxBatchSize": "many"}}))
    assert "spec.shapes.maxBatchSize" in text(status.detail(broken, NOW))
    assert "spec.shapes.maxBatchSize" in text(explain.explain(broken, explain.Evidence(), NOW))


def test_explain_shows_the_pod_that_failed_and_its_last_words(kubectl: SimulatedKubectl) -> None:
    world = kubectl.world
    world.settle()
    job = world.unfinished("resolve")[0]
    world.start(job)
    world.end(job, "crash")
    world.settle()
    pods = [
        raw
        for raw in kubectl.list(POD)
        if raw["metadata"]["name"].startswith(job["metadata"]["name"])
    ]
    pod = explain.failing(pods)
    assert pod is not None
    event = {
        "eventTime": "2026-11-01T11:59:00.000000Z",
        "type": "Warning",
        "reason": "BackOff",
        "note": "Back-off restarting\nfailed container",
        "regarding": {"kind": "Pod", "name": pod["metadata"]["name"]},
    }
    evidence = explain.Evidence(kubectl.list(JOB), pods, [event], "boom at line 3")
    lines = text(explain.explain(subject(world, TINY), evidence, NOW))
    assert "ended with 137" in lines
    assert "boom at line 3" in lines
    assert "Back-off restarting failed container" in lines


def test_explain_tells_a_deployment_by_its_engine(kubectl: SimulatedKubectl) -> None:
    world = kubectl.world
    world.change(TINY, suspend=True)
    world.settle()
    evidence = explain.Evidence(engine=world.cluster.objects[ENGINE, "tiny"])
    lines = text(explain.explain(subject(world, CHAT), evidence, NOW))
    assert "Its engine, llmengine/tiny" in lines
    assert "is stuck until something is changed" in lines
    assert "spec.suspend is true" in lines


def test_a_plan_is_the_operators_next_step_and_writes_nothing(kubectl: SimulatedKubectl) -> None:
    world = settled(kubectl.world)
    writes = world.cluster.writes
    assert "nothing is to be done" in planned(subject(world, TINY), kubectl)
    world.change(TINY, shapes={"maxBatchSize": 2})
    told = planned(subject(world, TINY), kubectl)
    assert "create Job tiny-resolve-" in told
    assert "Reconciling=True Resolving" in told
    assert "Predicted at" in told
    assert world.cluster.writes == writes


def test_a_plan_is_made_for_what_is_not_applied_yet(kubectl: SimulatedKubectl) -> None:
    world = settled(kubectl.world)
    raw = world.cluster.objects[DEPLOYMENT, "chat"]
    changed = {**raw, "spec": {**raw["spec"], "engineRef": {"name": "absent"}}}
    told = planned(Subject(DEPLOYMENT, changed), kubectl)
    assert "EngineNotFound" in told


def test_a_plan_asks_for_what_the_cluster_knows(kubectl: SimulatedKubectl) -> None:
    world = settled(kubectl.world)
    pool = {"endpointPickerRef": {"name": "picker"}}
    raw = world.cluster.objects[DEPLOYMENT, "chat"]
    changed = Subject(DEPLOYMENT, {**raw, "spec": {**raw["spec"], "inferencePool": pool}})
    knowing = SimulatedKubectl(world=world, knows=frozenset({INFERENCE_POOL}))
    assert "create InferencePool chat" in planned(changed, knowing)
    assert "InferencePoolMissing" in planned(changed, kubectl)


def test_a_log_that_cannot_be_read_is_in_no_plans_way(kubectl: SimulatedKubectl) -> None:
    world = kubectl.world
    world.settle()
    for job in world.unfinished("resolve"):
        world.start(job)
        world.end(job, "success")
    world.settle()
    for build in world.unfinished("build"):
        world.start(build)
    assert "Reconciling=True Building" in planned(subject(world, TINY), Mute(world=world))


def test_builds_of_other_namespaces_go_before_in_a_plan_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(HUB, limit=1)
    labels = {COMPONENT_LABEL: "build", "app.kubernetes.io/managed-by": "pitcrew"}
    metadata = {"name": "other-build", "namespace": "other", "labels": labels}
    running = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {}}
    world.cluster.create(JOB, running)
    world.settle()
    for job in world.unfinished("resolve"):
        world.start(job)
        world.end(job, "success")
    world.settle()
    limit = {"name": "PITCREW_MAX_PARALLEL_BUILDS", "value": "1"}
    (container,) = OPERATOR["spec"]["template"]["spec"]["containers"]
    monkeypatch.setitem(container, "env", [*container["env"], limit])
    about, everywhere = subject(world, TINY), SimulatedKubectl(world=world)
    lines = asyncio.run(plan(about, OneNamespace(world=world), everywhere, lambda: world.now))
    assert "nothing is to be done" in text(lines)


def test_without_an_operator_there_is_no_plan(
    kubectl: SimulatedKubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPERATOR, "spec", {"template": {"spec": {"containers": [{}]}}})
    with pytest.raises(PluginError, match="no operator was found"):
        planned(subject(kubectl.world, TINY), kubectl)


def upgraded(world: World) -> tuple[Deployment, Engine]:
    settled(world)
    world.change(TINY, shapes={"maxBatchSize": 2})
    settled(world)
    objects = world.cluster.objects
    return deployment_of(objects[DEPLOYMENT, "chat"]), engine_of(objects[ENGINE, "tiny"])


def test_detail_tells_how_far_a_rollout_is(kubectl: SimulatedKubectl) -> None:
    world = settled(kubectl.world)
    told = text(status.detail(subject(world, CHAT), NOW))
    assert "rollout    Complete, 100 % of what serves is the newest" in told
    steps = [{"weight": 50, "holdSeconds": 600}]
    world.change(CHAT, runtime={"drainSeconds": 31}, rollout={"canary": {"steps": steps}})
    settled(world)
    told = text(status.detail(subject(world, CHAT), NOW))
    assert "rollout    Canary, step 1 of 1, 50 % of what serves is the newest" in told


def test_a_rollback_goes_to_what_was_served_before(kubectl: SimulatedKubectl) -> None:
    owner, engine = upgraded(kubectl.world)
    before = owner.status.previous_engine
    assert before is not None
    found = rollback.rollback(owner, engine, None)
    assert found.patch == {"spec": {"engineRef": {"version": before.id[:12]}}}
    kubectl.world.change(CHAT, engineRef={"name": "tiny", "version": before.id[:12]})
    settled(kubectl.world)
    assert kubectl.world.status(CHAT)["engine"]["id"] == before.id
    held = deployment_of(kubectl.world.cluster.objects[DEPLOYMENT, "chat"])
    assert rollback.undo(held).patch == {"spec": {"engineRef": {"version": None}}}
    with pytest.raises(PluginError, match="held at"):
        rollback.rollback(held, engine, before.id)


def test_a_rollback_to_what_is_not_there_names_what_is(kubectl: SimulatedKubectl) -> None:
    owner, engine = upgraded(kubectl.world)
    ready = [v.id[:12] for v in engine.status.versions if v.id]
    with pytest.raises(PluginError, match=f"ready are: {', '.join(ready)}"):
        rollback.rollback(owner, engine, "ffffffffffff")
    with pytest.raises(PluginError, match="has served no other engine before"):
        rollback.rollback(deployment_of(deployment_raw()), engine, None)
    with pytest.raises(PluginError, match="held at no version"):
        rollback.undo(owner)


def test_who_keeps_a_resource_is_seen() -> None:
    assert rollback.keeper(deployment_raw()) is None
    flux = deployment_raw(labels={"kustomize.toolkit.fluxcd.io/name": "apps"})
    assert rollback.keeper(flux) == "Flux"
    argo = deployment_raw(annotations={"argocd.argoproj.io/tracking-id": "x"})
    assert rollback.keeper(argo) == "Argo CD"


def test_logs_are_those_of_the_newest_build_or_of_all_replicas(kubectl: SimulatedKubectl) -> None:
    world = settled(kubectl.world)
    words = logs.arguments(subject(world, TINY), kubectl.list(JOB), follow=False, tail=5)
    assert words[0] == "logs"
    assert words[1].startswith("job/tiny-build-")
    words = logs.arguments(subject(world, CHAT), (), follow=True, tail=5)
    assert "pitcrew.dev/deployment=chat" in words
    assert "--follow" in words
    assert "--ignore-errors" in words, "one pod that starts must not hide the logs of the others"
    with pytest.raises(PluginError, match="has no Job"):
        logs.arguments(subject(world, TINY), (), follow=False, tail=5)


def test_subjects_are_named_as_kubectl_names_things(kubectl: SimulatedKubectl) -> None:
    assert str(named("llme/tiny", kubectl)) == "llmengine/tiny"
    assert str(named("chat", kubectl)) == "llmdeployment/chat"
    assert named("LLMDeployments.pitcrew.dev/chat", kubectl).kind is DEPLOYMENT
    for wrong, told in (("pod/x", "no kind of Pitcrew's"), ("nobody", "there is no")):
        with pytest.raises(PluginError, match=told):
            named(wrong, kubectl)
    with pytest.raises(PluginError, match="name an LLMDeployment"):
        of_kind("llme/tiny", DEPLOYMENT, kubectl)
    kubectl.world.cluster.create(
        DEPLOYMENT,
        json.loads(
            json.dumps(deployment_raw() | {"metadata": {"name": "tiny", "namespace": "models"}})
        ),
    )
    with pytest.raises(PluginError, match="an LLMEngine and an LLMDeployment"):
        named("tiny", kubectl)
