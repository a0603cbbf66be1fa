"""What one pass did, for metrics and logs; the pass itself knows neither."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pitcrew_operator.api.deployment import LLMDeploymentStatus
from pitcrew_operator.api.version import EngineVersion, Phase
from pitcrew_operator.errors import Rejected, Unavailable
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.plan.actions import Action, WriteStatus
from pitcrew_operator.views import Deployment

logger = logging.getLogger("pitcrew_operator.reconcile")


@contextmanager
def watched_pass(metrics: Metrics, kind: str, name: str) -> Iterator[list[str]]:
    """Measure a pass and tell of it in one line. What it decides is added to the list."""
    decisions: list[str] = []
    began, outcome = time.perf_counter(), "done"
    try:
        yield decisions
    except Unavailable:
        outcome = "unavailable"
        raise
    except Rejected:
        outcome = "rejected"
        raise
    except Exception:
        outcome = "unexpected"
        raise
    finally:
        seconds = time.perf_counter() - began
        metrics.reconcile_seconds.labels(kind).observe(seconds)
        if outcome != "done":
            metrics.reconcile_errors.labels(kind, outcome).inc()
        level = logging.INFO if decisions else logging.DEBUG
        fields = {
            "object": name,
            "seconds": round(seconds, 4),
            "outcome": outcome,
            "decisions": decisions,
        }
        logger.log(level, "reconciled %s", name, extra={"fields": fields})


def decisions_of(actions: Sequence[Action]) -> list[str]:
    """Each action in a few words."""
    return [action.decision for action in actions if action.decision]


def tell_scaling(metrics: Metrics, owner: Deployment, actions: Sequence[Action]) -> None:
    """The number of replicas that was decided, and whether it was decided anew."""
    meta, before = owner.meta, owner.status.autoscaling
    if owner.spec.autoscaling is None:
        if before is not None:
            forget_scaling(metrics, meta.namespace, meta.name)
        return
    statuses = [a.status for a in actions if isinstance(a, WriteStatus)]
    after = next((s.autoscaling for s in statuses if isinstance(s, LLMDeploymentStatus)), before)
    if after is None:
        return
    metrics.desired_replicas.labels(meta.namespace, meta.name).set(after.desired_replicas)
    metrics.ready_replicas.labels(meta.namespace, meta.name).set(after.current_replicas)
    if before is not None and before.desired_replicas != after.desired_replicas:
        direction = "up" if after.desired_replicas > before.desired_replicas else "down"
        metrics.scalings.labels(direction).inc()


def forget_scaling(metrics: Metrics, namespace: str, name: str) -> None:
    """Nobody decides on its replicas any more."""
    metrics.desired_replicas.remove(namespace, name)
    metrics.ready_replicas.remove(namespace, name)


def count_builds(
    metrics: Metrics, before: Sequence[EngineVersion], actions: Sequence[Action]
) -> None:
    """Count the builds whose end the actions record for the first time."""
    for action in actions:
        if isinstance(action, WriteStatus):
            for version in ended(before, getattr(action.status, "versions", ())):
                _count(metrics, version)


def ended(before: Sequence[EngineVersion], after: Sequence[EngineVersion]) -> list[EngineVersion]:
    """Versions that are proven or failed now, and were not so before."""
    known = {(version.key, version.phase, version.job_uid) for version in before}
    return [
        version
        for version in after
        if version.phase in (Phase.READY, Phase.FAILED)
        and (version.key, version.phase, version.job_uid) not in known
    ]


def _count(metrics: Metrics, version: EngineVersion) -> None:
    if version.engine is None:
        metrics.builds.labels("failed", version.reason or "").inc()
        return
    metrics.builds.labels("cached" if version.engine.cached else "built", "").inc()
    if not version.engine.cached:
        metrics.build_seconds.observe(version.engine.build_seconds)
