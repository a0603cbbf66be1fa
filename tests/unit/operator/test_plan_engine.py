"""plan_engine as a table: what is seen → what is told and done."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pitcrew_builder.report import FailureReason, Phase, Progress
from pitcrew_operator import reasons
from pitcrew_operator.api.engine import LLMEngineStatus
from pitcrew_operator.kinds import JOB
from pitcrew_operator.manifests.build_job import Build
from pitcrew_operator.manifests.names import ENGINE_LABEL
from pitcrew_operator.plan.actions import Action, Apply, Delete, Emit, Requeue, WriteStatus
from pitcrew_operator.plan.conditions import Health, find
from pitcrew_operator.plan.engine import EngineSeen, plan_engine
from pitcrew_operator.views import JOB_NAME_LABEL, Claim, Engine, Job, Pod, job_of, pod_of
from tests.unit.operator.factories import (
    CONFIG,
    ENGINE_STATUS,
    NOW,
    container,
    engine,
    failed,
    meta,
    pod_raw,
    succeeded,
    terminated,
)

STORE, SOURCE = Claim("pitcrew-engines", "uid-store"), Claim("checkpoints", "uid-source")
SEEN = EngineSeen(store=STORE, source=SOURCE)


def job_name(subject: Engine) -> str:
    return Build(subject, STORE, CONFIG).job_name


def job(name: str, ended: str | None = None, reason: str = "", **status: object) -> Job:
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
            "metadata": meta(name, ownerReferences=[owner]),
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
    true = [c for c in conditions if c.status == "True"]
    assert len(true) == 1
    ready = find(conditions, Health.READY)
    assert ready is not None
    assert ready.reason == true[0].reason
    return Health(true[0].type), ready.reason, ready.message


def of_type(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def seen_with(subject: Engine, found: Job, *pods: Pod) -> EngineSeen:
    return replace(SEEN, jobs=(found,), pods=pods)


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
    assert of_type(plan(subject, replace(SEEN, source=None)), Apply)


def test_build_starts() -> None:
    subject = engine()
    actions = plan(subject, SEEN)
    (applied,) = of_type(actions, Apply)
    assert applied.manifest["metadata"]["name"] == job_name(subject)
    status = status_of(actions)
    assert status.build is not None
    assert status.build.state == "Running"
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
]  # fmt: skip


@pytest.mark.parametrize(("case", "status", "reason", "hint"), PENDING, ids=[p[0] for p in PENDING])
def test_what_holds_a_build_up(case: str, status: dict[str, Any], reason: str, hint: str) -> None:
    subject = engine()
    name = job_name(subject)
    actions = plan(subject, seen_with(subject, job(name), pod("p", name, status)))
    health, found, message = told(actions)
    assert (health, found) == (Health.RECONCILING, reason), case
    assert hint in message


def test_progress_is_shown_and_looked_at_again() -> None:
    subject = engine()
    name = job_name(subject)
    seen = replace(
        seen_with(subject, job(name), pod("p", name, container("running"))),
        progress={name: Progress(phase=Phase.SERIALIZE, percent=62)},
    )
    actions = plan(subject, seen)
    assert status_of(actions).progress == "Serialize 62%"
    assert of_type(actions, Requeue) == [Requeue(CONFIG.log_poll_seconds)]


def test_success_is_recorded() -> None:
    subject = engine()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    actions = plan(subject, seen_with(subject, job(name, "Complete"), ended))
    status = status_of(actions)
    assert status.engine is not None
    assert status.engine.model_dump(by_alias=True) == ENGINE_STATUS
    assert status.progress is None
    assert told(actions)[:2] == (Health.READY, reasons.ENGINE_READY)


def test_success_counts_before_an_earlier_try() -> None:
    subject = engine()
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
    ("vanished", "BackoffLimitExceeded", None, "BuildFailed", "pitcrew.dev/rebuild"),
]


@pytest.mark.parametrize(
    ("case", "cause", "status", "reason", "hint"), ENDINGS, ids=[e[0] for e in ENDINGS]
)
def test_failures_stall_and_say_what_to_do(
    case: str, cause: str, status: dict[str, Any] | None, reason: str, hint: str
) -> None:
    subject = engine()
    name = job_name(subject)
    pods = [pod("p", name, status)] if status else []
    actions = plan(subject, seen_with(subject, job(name, "Failed", cause), *pods))
    health, found, message = told(actions)
    assert (health, found) == (Health.STALLED, reason), case
    assert hint in message
    assert status_of(actions).build is not None


def test_failure_tells_how_often_it_was_tried() -> None:
    subject = engine()
    name = job_name(subject)
    ended = pod("p", name, terminated(failed(), 1, "Error"))
    found = job(name, "Failed", "BackoffLimitExceeded", failed=4)
    assert "tried 4 times" in told(plan(subject, seen_with(subject, found, ended)))[2]


def settle(subject: Engine, seen: EngineSeen) -> Engine:
    """The engine with the status that a plan writes."""
    return replace(subject, status=status_of(plan(subject, seen)))


def test_recorded_failure_outlives_its_job_and_other_trouble() -> None:
    subject = engine()
    name = job_name(subject)
    ended = pod("p", name, terminated(failed(), 2, "Error"))
    settled = settle(subject, seen_with(subject, job(name, "Failed", "PodFailurePolicy"), ended))
    assert plan(settled, SEEN) == []
    troubled = settle(settled, replace(SEEN, store=None))
    health, reason, message = told(plan(troubled, SEEN))
    assert (health, reason) == (Health.STALLED, "CheckpointCorrupt")
    assert "bad file" in message


def test_recorded_success_needs_neither_job_nor_source() -> None:
    subject = engine()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    settled = settle(subject, seen_with(subject, job(name, "Complete"), ended))
    assert plan(settled, replace(SEEN, source=None)) == []


def ready_engine(spec: dict[str, Any] | None = None, **metadata: object) -> Engine:
    """A new spec over the status of an older, proven one."""
    subject = engine()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    status = settle(subject, seen_with(subject, job(name, "Complete"), ended)).status
    return replace(engine(spec, **metadata), status=status)


def test_changed_spec_builds_beside_the_engine_in_service() -> None:
    subject = ready_engine({"shapes": {"maxBatchSize": 1}}, generation=2)
    old = job(job_name(engine()), "Complete")
    actions = plan(subject, replace(SEEN, jobs=(old,)))
    assert [d.name for d in of_type(actions, Delete)] == [old.meta.name]
    assert [a.manifest["metadata"]["name"] for a in of_type(actions, Apply)] == [job_name(subject)]
    status = status_of(actions)
    assert status.engine is not None
    assert status.engine.id == ENGINE_STATUS["id"]
    assert told(actions)[0] is Health.RECONCILING
    assert status.observed_generation == 2


def test_failed_later_build_leaves_the_earlier_engine() -> None:
    subject = ready_engine({"shapes": {"maxBatchSize": 1}}, generation=2)
    name = job_name(subject)
    ended = pod("p", name, terminated(failed(), 2, "Error"))
    actions = plan(subject, seen_with(subject, job(name, "Failed", "PodFailurePolicy"), ended))
    status = status_of(actions)
    assert status.engine is not None
    health, _, message = told(actions)
    assert health is Health.STALLED
    assert f"earlier engine {ENGINE_STATUS['tag']} stays in service" in message


def test_rebuild_annotation_starts_another_job() -> None:
    subject = ready_engine(annotations={"pitcrew.dev/rebuild": "now"})
    (applied,) = of_type(plan(subject, SEEN), Apply)
    assert applied.manifest["metadata"]["name"] != job_name(engine())


def test_running_job_of_an_older_spec_is_deleted() -> None:
    subject = engine({"shapes": {"maxBatchSize": 1}})
    old = job(job_name(engine()))
    (gone,) = of_type(plan(subject, replace(SEEN, jobs=(old,))), Delete)
    assert gone == Delete(JOB, "models", old.meta.name, old.meta.uid)


def test_finished_job_is_kept_for_a_while() -> None:
    subject = ready_engine()
    found = job(job_name(subject), "Complete")
    assert plan(subject, replace(SEEN, jobs=(found,))) == [Requeue(3540.0)]
    late = plan_engine(subject, replace(SEEN, jobs=(found,)), NOW + timedelta(hours=2), CONFIG)
    assert [type(action) for action in late] == [Delete]


def test_lost_report_asks_the_store_again() -> None:
    subject = engine()
    found = job(job_name(subject), "Complete")
    actions = plan(subject, seen_with(subject, found))
    assert of_type(actions, Delete)
    assert told(actions)[:2] == (Health.RECONCILING, reasons.BUILD_LOST)


def test_report_that_lags_behind_its_job_is_awaited() -> None:
    subject = engine()
    name = job_name(subject)
    going = pod("p", name, container("running"))
    actions = plan(subject, seen_with(subject, job(name, "Complete"), going))
    assert told(actions)[0] is Health.RECONCILING
    assert of_type(actions, Requeue)
    assert not of_type(actions, Delete)


@pytest.mark.parametrize("path", ["/etc", "../up", "a/../b", "a//b", ".staging/x", ""])
def test_path_out_of_the_store_is_not_believed(path: str) -> None:
    subject = engine()
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


def test_nothing_is_done_for_an_engine_on_its_way_out() -> None:
    assert plan(engine(deletionTimestamp="2026-11-01T11:00:00Z"), SEEN) == []


def test_job_on_its_way_out_is_awaited() -> None:
    subject = engine()
    going = job(job_name(subject))
    going = replace(going, meta=replace(going.meta, deleting=True))
    actions = plan(subject, replace(SEEN, jobs=(going,)))
    assert not of_type(actions, Apply)
    assert told(actions)[1] == reasons.WAITING_FOR_DELETION


def test_second_plan_over_the_written_status_is_empty() -> None:
    subject = engine()
    name = job_name(subject)
    waiting = pod("p", name, container("waiting", reason="ImagePullBackOff", message="no"))
    seen = seen_with(subject, job(name), waiting)
    assert plan(settle(subject, seen), seen) == []


def test_event_and_transition_time_only_on_a_transition() -> None:
    subject = engine()
    first = settle(subject, replace(SEEN, source=None))
    again = replace(first, meta=replace(first.meta, generation=2))
    actions = plan_engine(again, replace(SEEN, source=None), NOW + timedelta(hours=1), CONFIG)
    assert not of_type(actions, Emit)
    times = {c.last_transition_time for c in status_of(actions).conditions}
    assert times == {"2026-11-01T12:00:00Z"}


def test_report_of_a_pod_is_believed_before_its_job_notices() -> None:
    subject = engine()
    name = job_name(subject)
    ended = pod("p", name, terminated(succeeded()))
    actions = plan(subject, seen_with(subject, job(name), ended))
    assert told(actions)[:2] == (Health.READY, reasons.ENGINE_READY)
