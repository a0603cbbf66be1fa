"""What metrics and logs tell of a pass."""

import json
import logging
from typing import Any

import pytest

from pitcrew_operator.api.version import EngineVersion
from pitcrew_operator.errors import Rejected, Unavailable
from pitcrew_operator.kinds import ENGINE, JOB
from pitcrew_operator.logs import JsonFormatter, TextFormatter
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.plan.actions import Apply, Delete, Requeue, WriteStatus
from pitcrew_operator.telemetry import count_builds, decisions_of, watched_pass
from tests.unit.operator.factories import ENGINE_STATUS, engine


def version(phase: str, key: str = "k", **more: object) -> EngineVersion:
    known = {
        "key": key,
        "specHash": "s",
        "phase": phase,
        "targetTag": "cpu",
        "commit": "c",
        "jobName": "j",
        "startedAt": "2026-11-01T11:00:00Z",
    }
    return EngineVersion.model_validate(known | more)


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"pitcrew_operator_{name}", labels) or 0.0


def record(before: list[EngineVersion], after: list[EngineVersion]) -> Metrics:
    metrics, owner = Metrics(), engine()
    status = owner.status.model_copy(update={"versions": tuple(after)})
    count_builds(metrics, before, [WriteStatus(ENGINE, owner.meta, status)])
    return metrics


@pytest.mark.parametrize(("cached", "outcome", "timed"), [(False, "built", 1), (True, "cached", 0)])
def test_build_is_counted_when_it_ends(cached: bool, outcome: str, timed: int) -> None:
    done = version("Ready", engine=ENGINE_STATUS | {"cached": cached})
    metrics = record([version("Building")], [done])
    assert sample(metrics, "builds_total", outcome=outcome, reason="") == 1
    assert sample(metrics, "build_seconds_count") == timed


def test_failed_build_is_counted_with_its_reason() -> None:
    metrics = record([], [version("Failed", reason="OutOfMemory"), version("Building", "other")])
    assert sample(metrics, "builds_total", outcome="failed", reason="OutOfMemory") == 1


def test_what_ended_before_is_not_counted_again() -> None:
    ready = version("Ready", engine=ENGINE_STATUS)
    metrics = record([ready], [ready, version("Retired", "old")])
    assert sample(metrics, "builds_total", outcome="built", reason="") == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Unavailable("429: wait", 3), "unavailable"),
        (Rejected(403, "no"), "rejected"),
        (KeyError("x"), "unexpected"),
    ],
)
def test_pass_that_fails_is_measured_and_counted(error: Exception, outcome: str) -> None:
    metrics = Metrics()
    with pytest.raises(type(error)), watched_pass(metrics, "LLMEngine", "LLMEngine a/b"):
        raise error
    labels = {"kind": "LLMEngine", "error": outcome}
    assert sample(metrics, "reconcile_errors_total", **labels) == 1
    assert sample(metrics, "reconcile_seconds_count", kind="LLMEngine") == 1


def test_pass_is_one_line_with_its_decisions(caplog: pytest.LogCaptureFixture) -> None:
    job: dict[str, Any] = {"kind": "Job", "metadata": {"name": "tiny-build-1"}}
    actions = [Apply(job), Delete(JOB, "a", "old", "uid"), Requeue(3)]
    with (
        caplog.at_level(logging.DEBUG, "pitcrew_operator.reconcile"),
        watched_pass(Metrics(), "LLMEngine", "LLMEngine a/b") as decisions,
    ):
        decisions += decisions_of(actions)
    (line,) = caplog.records
    told = json.loads(JsonFormatter().format(line))
    assert told["object"] == "LLMEngine a/b"
    assert told["decisions"] == ["apply Job tiny-build-1", "delete Job old"]
    assert told["seconds"] >= 0
    assert "decisions=['apply Job tiny-build-1'" in TextFormatter().format(line)


def test_pass_that_changes_nothing_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), watched_pass(Metrics(), "LLMEngine", "LLMEngine a/b"):
        pass
    assert not caplog.records
