"""plan_engine as a table: what is seen → what is told and done."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pitcrew_builder.report import Failed, FailureReason, Phase, Progress
from pitcrew_operator import reasons
from pitcrew_operator.api.engine import LLMEngineStatus
from pitcrew_operator.kinds import JOB
from pitcrew_operator.manifests.names import ENGINE_LABEL
from pitcrew_operator.order import Order
from pitcrew_operator.plan.actions import Action, Apply, Delete, Emit, Requeue, WriteStatus
from pitcrew_operator.plan.conditions import Health, find
from pitcrew_operator.plan.course import Work
from pitcrew_operator.plan.engine import EngineSeen, plan_engine
from pitcrew_operator.views import (
    COMPONENT_LABEL,
    JOB_NAME_LABEL,
    Claim,
    Engine,
    Job,
    Pod,
    job_of,
    pod_of,
)
from tests.unit.operator.factories import (
    CONFIG,
    ENGINE_STATUS,
    NOW,
    answer,
    container,
    engine,
    failed,
    meta,
    pod_raw,
    resolved,
    succeeded,
    terminated,
)

STORE, SOURCE = Claim("pitcrew-engines", "uid-store"), Claim("checkpoints", "uid-source")
SEEN = EngineSeen(store=STORE, source=SOURCE)


QUIET = {"rebuildPolicy": {"pollSeconds": 0}}


def order(subject: Engine) -> Order:
    return Order(subject, CONFIG, STORE, SOURCE)


def job_name(subject: Engine) -> str:
    return order(subject).job_name(answer())


def look_name(subject: Engine) -> str:
    return order(subject).look_name


def looked(spec: dict[str, Any] | None = None, **metadata: object) -> Engine:
    """An engine whose sources were looked at: what would be built is ENGINE_STATUS."""
    subject = engine(QUIET | (spec or {}), **metadata)
    name = look_name(subject)
    ended = pod("look", name, terminated(resolved()))
    seen = seen_with(subject, job(name, "Complete", component="resolve"), ended)
    return settle(subject, seen)


def job(
    name: str,
    ended: str | None = None,
    reason: str = "",
    component: str = "build",
    **status: object,
) -> Job:
    """A Job; `ended` is the type of its final condition."""
    condition = {
        "type": ended,
        "status": "True",
        "reason": reason,
        "lastTransitionTime": "2026-11-01T11:59:00Z",
    }
    owner = {"kind": "LLMEngine", "name": "tiny", "uid": "uid-tiny", "controller": True}
    return job_of(
        {
            "metadata": meta(name, ownerReferences=[owner], labels={COMPONENT_LABEL: component}),
            "status": {"conditions": [condition] if ended else [], **status},
        }
    )


def pod(name: str, owner: str, status: dict[str, Any], **metadata: object) -> Pod:
    raw = pod_raw(name, {ENGINE_LABEL: "tiny", JOB_NAME_LABEL: owner}, **status)
    raw["metadata"].update(metadata)
    return pod_of(raw)


def plan(subject: Engine, seen: EngineSeen) -> list[Action]:
    return plan_engine(subject, seen, NOW, CONFIG)


def status_of(actions: list[Action]) -> LLMEngineStatus:
    written = [action.status for action in actions if isinstance(action, WriteStatus)]
    assert len(written) == 1
    assert isinstance(written[0], LLMEngineStatus)
    return written[0]


def told(actions: list[Action]) -> tuple[Health, str, str]:
    """Which condition is True, its reason, and the message of Ready."""
    conditions = status_of(actions).conditions
    true = [c for c in conditions if c.status == "True" and c.type in set(Health)]
    assert len(true) == 1
    ready = find(conditions, Health.READY)
    assert ready is not None
    assert ready.reason == true[0].reason
    return Health(true[0].type), ready.reason, ready.message


def of_type(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def seen_with(subject: Engine, found: Job, *pods: Pod) -> EngineSeen:
    return replace(SEEN, work=Work(jobs=(found,), pods=pods))


def seen_jobs(*jobs: Job) -> EngineSeen:
    return replace(SEEN, work=Work(jobs=jobs))


def test_missing_default_store_is_created_without_owner() -> None:
    actions = plan(engine(), replace(SEEN, store=None))
    (applied,) = of_type(actions, Apply)
    assert applied.manifest["kind"] == "PersistentVolumeClaim"
    assert "ownerReferences" not in applied.manifest["metadata"]
    assert told(actions)[:2] == (Health.RECONCILING, reasons.CREATING_STORE)


def test_missing_named_store_is_awaited() -> None:
    actions = plan(engine({"store": {"claimName": "mine"}}), replace(SEEN, store=None))
    assert not of_type(actions, Apply)
    health, reason, message = told(actions)
    assert (health, reason) == (Health.RECONCILING, reasons.STORE_NOT_FOUND)
    assert "mine" in message
    assert "namespace models" in message


def test_missing_source_is_awaited_and_no_job_is_made() -> None:
    actions = plan(engine(), replace(SEEN, source=None))
    assert not of_type(actions, Apply)
    assert told(actions)[1] == reasons.SOURCE_VOLUME_NOT_FOUND
    (event,) = of_type(actions, Emit)
    assert event.type == "Warning"


def test_hub_needs_no_source_volume() -> None:
    subject = engine({"model": {"huggingFace": {"repo": "a/b"}}})
    (applied,) = of_type(plan(subject, replace(SEEN, source=None)), Apply)
    name = Order(subject, CONFIG, STORE).look_name
    assert applied.manifest["metadata"]["name"] == name


def test_sources_are_looked_at_before_anything_is_built() -> None:
    subject = engine()
    actions = plan(subject, SEEN)
    (applied,) = of_type(actions, Apply)
    assert applied.manifest["metadata"]["labels"][COMPONENT_LABEL] == "resolve"
    assert told(actions)[:2] == (Health.RECONCILING, reasons.RESOLVING)
    assert not status_of(actions).versions


def test_the_answer_is_recorded_and_the_cluster_removes_its_job() -> None:
    subject = looked()
    resolution = subject.status.resolution
    assert resolution is not None
    assert resolution.answer == answer()
    read = job(look_name(subject), "Complete", component="resolve")
    actions = plan(subject, seen_jobs(read))
    assert not of_type(actions, Delete)


def test_the_job_of_the_last_look_makes_room_for_the_next() -> None:
    subject = looked({"rebuildPolicy": {"pollSeconds": 60}})
    read = job(look_name(subject), "Complete", component="resolve")
    later = NOW + timedelta(minutes=2)
    actions = plan_engine(subject, seen_jobs(read), later, CONFIG)
    assert [gone.name for gone in of_type(actions, Delete)] == [look_name(subject)]
    asked = of_type(plan_engine(subject, seen_jobs(), later, CONFIG), Apply)[0]
    assert asked.manifest["metadata"]["name"] == look_name(subject)
    assert asked.manifest["spec"]["ttlSecondsAfterFinished"] > 0


LOOKS: list[tuple[str, str, dict[str, Any] | None, Health, str]] = [
    ("refused", "PodFailurePolicy", terminated(failed(), 2, "Error"), Health.STALLED,
     "CheckpointCorrupt"),
    ("old builder", "PodFailurePolicy", terminated("", 2, "Error"), Health.STALLED,
     reasons.RESOLVE_FAILED),
    ("lost", "BackoffLimitExceeded", None, Health.RECONCILING, reasons.RESOLVING),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "cause", "end", "health", "reason"), LOOKS, ids=[x[0] for x in LOOKS]
)
def test_a_look_that_fails(
    case: str, cause: str, end: dict[str, Any] | None, health: Health, reason: str
) -> None:
    subject = engine()
    name = look_name(subject)
    pods = [pod("look", name, end)] if end else []
    actions = plan(subject, seen_with(subject, job(name, "Failed", cause, "resolve"), *pods))
    assert told(actions)[:2] == (health, reason), case
    assert not status_of(actions).versions


def test_a_look_that_found_nobody_is_repeated_by_itself() -> None:
    subject = engine(QUIET)
    name = look_name(subject)
    ended = pod("look", name, terminated(unreachable(), 1, "Error"))
    seen = seen_with(subject, job(name, "Failed", "BackoffLimitExceeded", "resolve"), ended)
    settled = settle(subject, seen)
    (again,) = of_type(plan(settled, SEEN), Requeue)
    assert again.seconds == 300
    later = plan_engine(settled, SEEN, NOW + timedelta(minutes=6), CONFIG)
    assert [a.manifest["metadata"]["name"] for a in of_type(later, Apply)] == [name]


def unreachable() -> str:
    report = Failed(reason=FailureReason.HUB_UNREACHABLE, message="no route", retryable=True)
    return report.model_dump_json(by_alias=True)


def test_build_starts() -> None:
    subject = looked()
    actions = plan(subject, SEEN)
    (applied,) = of_type(actions, Apply)
    assert applied.manifest["metadata"]["name"] == job_name(subject)
    status = status_of(actions)
    assert [version.phase for version in status.versions] == ["Building"]
    assert status.versions[0].tag == ENGINE_STATUS["tag"]
    assert status.model == "tiny"
    assert told(actions)[:2] == (Health.RECONCILING, reasons.BUILD_STARTING)


PENDING: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "unbound volume",
        {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
             "message": "0/1 nodes: pod has unbound immediate PersistentVolumeClaims"}]},
        reasons.WAITING_FOR_VOLUME,
        "StorageClass",
    ),
    (
        "missing volume",
        {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
             "message": 'persistentvolumeclaim "checkpoints" not found'}]},
        reasons.SOURCE_VOLUME_NOT_FOUND,
        "create it",
    ),
    (
        "no node",
        {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
             "message": "0/3 nodes are available: 3 Insufficient cpu."}]},
        reasons.UNSCHEDULABLE,
        "Insufficient cpu",
    ),
    ("image", container("waiting", reason="ImagePullBackOff", message="not found"),
     reasons.IMAGE_PULL_FAILED, "pitcrew/x:1"),
    ("secret", container("waiting", reason="CreateContainerConfigError", message='secret "hub"'),
     reasons.POD_MISCONFIGURED, 'secret "hub"'),
    ("patience", container("waiting", reason="ContainerCreating"), reasons.BUILD_STARTING, "Job"),
    ("retry", terminated(failed(FailureReason.HUB_UNREACHABLE, "no route"), 1, "Error"),
     reasons.RETRYING, "no route"),
    ("quiet end", terminated("", 0), reasons.BUILD_STARTING, "Job"),
    ("killed", terminated("", 137, "Error"), reasons.RETRYING, "exit code 137"),
    ("evicted", {"phase": "Failed", "reason": "Evicted", "message": "low on ephemeral-storage"},
     reasons.RETRYING, "low on ephemeral-storage"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "status", "reason", "hint"), PENDING, ids=[p[0] for p in PENDING])
def test_what_holds_a_build_up(case: str, status: dict[str, Any], reason: str, hint: str) -> None:
    subject = looked()
    name = job_name(subject)
    actions = plan(subject, seen_with(subject, job(name), pod("p", name, status)))
    health, found, message = told(actions)
    assert (health, found) == (Health.RECONCILING, reason), case
    assert hint in message


@pytest.mark.parametrize(("age", "is_told"), [(1, False), (3, True)])
@pytest.mark.parametrize("component", ["resolve", "build"])
def test_a_job_that_gets_no_pod_is_told(component: str, age: int, is_told: bool) -> None:
    subject = looked() if component == "build" else engine(QUIET)
    name = job_name(subject) if component == "build" else look_name(subject)
    found = replace(
        job(name, component=component), created=(NOW - timedelta(minutes=age)).isoformat()
    )
    health, reason, message = told(plan(subject, seen_with(subject, found)))
    assert health is Health.RECONCILING
    assert (reason == reasons.PODS_REFUSED) is is_told
    assert (f"kubectl describe job --namespace models {name}" in message) is is_told


def test_progress_is_shown_and_looked_at_again() -> None:
    subject = looked()
    name = job_name(subject)
    seen = replace(
        SEEN,
        work=Work(
            jobs=(job(name),),
            pods=(pod("p", name, container("running")),),
            progress={name: Progress(phase=Phase.SERIALIZE, percent=62)},
        ),
    )
    actions = plan(subject, seen)
    assert status_of(actions).progress == "Serialize 62%"
    assert of_type(actions, Requeue) == [Requeue(CONFIG.log_poll_seconds)]


def test_success_is_recorded() -> None:
    subject = looked()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    actions = plan(subject, seen_with(subject, job(name, "Complete"), ended))
    status = status_of(actions)
    assert status.engine is not None
    told_of = status.engine.model_dump(mode="json", by_alias=True)
    assert ENGINE_STATUS.items() <= told_of.items()
    assert (status.current, status.previous) == (ENGINE_STATUS["id"], None)
    assert [version.phase for version in status.versions] == ["Ready"]
    assert status.progress is None
    assert told(actions)[:2] == (Health.READY, reasons.ENGINE_READY)


def test_success_counts_before_an_earlier_try() -> None:
    subject = looked()
    name = job_name(subject)
    first = pod("p1", name, terminated(failed(), 1, "Error"))
    second = pod("p2", name, terminated(succeeded()), creationTimestamp="2026-11-01T11:30:00Z")
    actions = plan(subject, seen_with(subject, job(name, "Complete"), first, second))
    assert told(actions)[0] is Health.READY


ENDINGS: list[tuple[str, str, dict[str, Any] | None, str, str]] = [
    ("refused", "PodFailurePolicy", terminated(failed(), 2, "Error"), "CheckpointCorrupt", "bad"),
    ("silent", "BackoffLimitExceeded", terminated("", 1, "Error"), "BuildFailed", "kubectl logs"),
    ("memory", "BackoffLimitExceeded", terminated("", 137, "OOMKilled"), "OutOfMemory", "limits"),
    ("deadline", "DeadlineExceeded", None, "DeadlineExceeded", "activeDeadlineSeconds = 86400"),
    ("vanished", "BackoffLimitExceeded", None, "BuildFailed", "spec.rebuildPolicy.trigger"),
]


@pytest.mark.parametrize(
    ("case", "cause", "status", "reason", "hint"), ENDINGS, ids=[e[0] for e in ENDINGS]
)
def test_failures_stall_and_say_what_to_do(
    case: str, cause: str, status: dict[str, Any] | None, reason: str, hint: str
) -> None:
    subject = looked()
    name = job_name(subject)
    pods = [pod("p", name, status)] if status else []
    actions = plan(subject, seen_with(subject, job(name, "Failed", cause), *pods))
    health, found, message = told(actions)
    assert (health, found) == (Health.STALLED, reason), case
    assert hint in message
    assert [version.phase for version in status_of(actions).versions] == ["Failed"]


def test_failure_tells_how_often_it_was_tried() -> None:
    subject = looked()
    name = job_name(subject)
    ended = pod("p", name, terminated(failed(), 1, "Error"))
    found = job(name, "Failed", "BackoffLimitExceeded", failed=4)
    assert "tried 4 times" in told(plan(subject, seen_with(subject, found, ended)))[2]


def settle(subject: Engine, seen: EngineSeen) -> Engine:
    """The engine with the status that a plan writes."""
    return replace(subject, status=status_of(plan(subject, seen)))


def test_recorded_failure_outlives_its_job_and_other_trouble() -> None:
    subject = looked()
    name = job_name(subject)
    ended = pod("p", name, terminated(failed(), 2, "Error"))
    settled = settle(subject, seen_with(subject, job(name, "Failed", "PodFailurePolicy"), ended))
    assert plan(settled, SEEN) == []
    troubled = settle(settled, replace(SEEN, store=None))
    health, reason, message = told(plan(troubled, SEEN))
    assert (health, reason) == (Health.STALLED, "CheckpointCorrupt")
    assert "bad file" in message


def test_recorded_success_needs_neither_job_nor_source() -> None:
    subject = looked()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    settled = settle(subject, seen_with(subject, job(name, "Complete"), ended))
    assert plan(settled, replace(SEEN, source=None)) == []


def ready_engine(spec: dict[str, Any] | None = None, **metadata: object) -> Engine:
    """A spec over the status of an engine that was proven for the default one."""
    subject = looked()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    status = settle(subject, seen_with(subject, job(name, "Complete"), ended)).status
    return replace(engine(QUIET | (spec or {}), **metadata), status=status)


OTHER = {"key": "d" * 64, "engineId": "d" * 64, "tag": "tiny-d", "commit": "d" * 12}
SMALL = {"shapes": {"maxBatchSize": 1}}


def wanting_another(spec: dict[str, Any] | None = None, **metadata: object) -> Engine:
    """The same after the look that such a spec leads to has found another engine."""
    subject = ready_engine(spec, **metadata)
    name = look_name(subject)
    ended = pod("look", name, terminated(resolved(**OTHER)))
    return settle(subject, seen_with(subject, job(name, "Complete", component="resolve"), ended))


def other_name(subject: Engine) -> str:
    return order(subject).job_name(answer(**OTHER))


def test_changed_spec_builds_beside_the_engine_in_service() -> None:
    subject = wanting_another(SMALL, generation=2)
    actions = plan(subject, SEEN)
    (applied,) = of_type(actions, Apply)
    assert applied.manifest["metadata"]["name"] == other_name(subject)
    status = status_of(actions)
    assert status.engine is not None
    assert status.engine.id == ENGINE_STATUS["id"]
    assert [version.phase for version in status.versions] == ["Building", "Ready"]
    assert told(actions)[0] is Health.RECONCILING
    assert status.observed_generation == 2


def test_the_next_engine_takes_over_and_the_last_one_stays() -> None:
    subject = wanting_another(SMALL, generation=2)
    name = other_name(subject)
    ended = pod("p", name, terminated(succeeded(engineId="d" * 64, tag="tiny-d")))
    status = status_of(plan(subject, seen_with(subject, job(name, "Complete"), ended)))
    assert (status.current, status.previous) == ("d" * 64, ENGINE_STATUS["id"])
    assert status.engine is not None
    assert status.engine.tag == "tiny-d"
    assert [version.phase for version in status.versions] == ["Ready", "Ready"]


def test_failed_later_build_leaves_the_earlier_engine() -> None:
    subject = wanting_another(SMALL, generation=2)
    name = other_name(subject)
    ended = pod("p", name, terminated(failed(), 2, "Error"))
    actions = plan(subject, seen_with(subject, job(name, "Failed", "PodFailurePolicy"), ended))
    status = status_of(actions)
    assert status.engine is not None
    health, _, message = told(actions)
    assert health is Health.STALLED
    assert f"earlier engine {ENGINE_STATUS['tag']} stays in service" in message


def test_a_failure_is_tried_again_when_the_trigger_changes() -> None:
    subject = looked()
    found = job(job_name(subject), "Failed", "PodFailurePolicy")
    ended = pod("p", job_name(subject), terminated(failed(), 2, "Error"))
    stuck = settle(subject, seen_with(subject, found, ended))
    assert not of_type(plan(stuck, SEEN), Apply)
    asked = engine({"rebuildPolicy": {"pollSeconds": 0, "trigger": "again"}})
    asked = replace(asked, status=stuck.status)
    look = pod("look", look_name(asked), terminated(resolved()))
    seen = seen_with(asked, job(look_name(asked), "Complete", component="resolve"), look)
    asked = settle(asked, seen)
    (gone,) = of_type(plan(asked, seen_jobs(found)), Delete)
    assert gone.uid == found.meta.uid
    (applied,) = of_type(plan(asked, SEEN), Apply)
    assert applied.manifest["metadata"]["name"] == job_name(subject)


def test_running_build_of_an_older_spec_is_cancelled_at_once() -> None:
    begun = settle(looked(), SEEN)
    old = job(job_name(begun))
    changed = replace(engine(QUIET | SMALL), status=begun.status)
    actions = plan(changed, seen_jobs(old))
    (gone,) = of_type(actions, Delete)
    assert gone == Delete(JOB, "models", old.meta.name, old.meta.uid)
    assert not status_of(actions).versions


def test_finished_job_is_kept_for_a_while() -> None:
    subject = ready_engine()
    found = job(job_name(subject), "Complete")
    assert plan(subject, seen_jobs(found)) == [Requeue(3540.0)]
    late = plan_engine(subject, seen_jobs(found), NOW + timedelta(hours=2), CONFIG)
    assert [type(action) for action in late] == [Delete]


def test_lost_report_asks_the_store_again() -> None:
    subject = looked()
    found = job(job_name(subject), "Complete")
    actions = plan(subject, seen_with(subject, found))
    assert of_type(actions, Delete)
    assert told(actions)[:2] == (Health.RECONCILING, reasons.BUILD_LOST)


def test_report_that_lags_behind_its_job_is_awaited() -> None:
    subject = looked()
    name = job_name(subject)
    going = pod("p", name, container("running"))
    actions = plan(subject, seen_with(subject, job(name, "Complete"), going))
    assert told(actions)[0] is Health.RECONCILING
    assert of_type(actions, Requeue)
    assert not of_type(actions, Delete)


@pytest.mark.parametrize("path", ["/etc", "../up", "a/../b", "a//b", ".staging/x", ""])
def test_path_out_of_the_store_is_not_believed(path: str) -> None:
    subject = looked()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded(path=path)))
    actions = plan(subject, seen_with(subject, job(name, "Complete"), ended))
    assert told(actions)[:2] == (Health.STALLED, reasons.UNREADABLE_REPORT)
    assert status_of(actions).engine is None


def test_impossible_layout_stalls() -> None:
    actions = plan(engine({"parallelism": {"tensor": 32, "pipeline": 4}}), SEEN)
    health, reason, message = told(actions)
    assert (health, reason) == (Health.STALLED, reasons.INVALID_SPEC)
    assert "128 ranks" in message


def test_fields_that_do_not_fit_together_are_told_by_their_names_alone() -> None:
    _, reason, message = told(plan(engine({"quantization": {"weights": "int4"}}), SEEN))
    assert reason == reasons.INVALID_SPEC
    assert message.startswith("spec.proof.prompts: a quantized engine is published only when")
    assert "pydantic" not in message
    assert len(message.splitlines()) == 1


def test_nothing_is_done_for_an_engine_on_its_way_out() -> None:
    assert plan(engine(deletionTimestamp="2026-11-01T11:00:00Z"), SEEN) == []


def test_job_on_its_way_out_is_awaited() -> None:
    subject = looked()
    going = job(job_name(subject))
    going = replace(going, meta=replace(going.meta, deleting=True))
    actions = plan(subject, seen_jobs(going))
    assert not of_type(actions, Apply)
    assert told(actions)[1] == reasons.WAITING_FOR_DELETION


def test_second_plan_over_the_written_status_is_empty() -> None:
    subject = looked()
    name = job_name(subject)
    waiting = pod("p", name, container("waiting", reason="ImagePullBackOff", message="no"))
    seen = seen_with(subject, job(name), waiting)
    assert plan(settle(subject, seen), seen) == []


def test_event_and_transition_time_only_on_a_transition() -> None:
    subject = looked()
    first = settle(subject, replace(SEEN, store=None))
    again = replace(first, meta=replace(first.meta, generation=2))
    actions = plan_engine(again, replace(SEEN, store=None), NOW + timedelta(hours=1), CONFIG)
    assert not of_type(actions, Emit)
    times = {c.last_transition_time for c in status_of(actions).conditions}
    assert times == {"2026-11-01T12:00:00Z"}


def test_report_of_a_pod_is_believed_before_its_job_notices() -> None:
    subject = looked()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    actions = plan(subject, seen_with(subject, job(name), ended))
    assert told(actions)[:2] == (Health.READY, reasons.ENGINE_READY)
