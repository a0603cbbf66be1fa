"""How a build ended, from its Job and the last words of its pods."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pitcrew_builder.report import Failed, ProofSummary, Succeeded, parse_outcome
from pitcrew_operator import reasons
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.manifests.store import recorded
from pitcrew_operator.order import Order
from pitcrew_operator.plan.conditions import Situation, reconciling, stalled
from pitcrew_operator.views import Job, Pod

_SAFE_PATH: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")


@dataclass(frozen=True)
class Proven:
    """An engine is in the store."""

    engine: EngineStatus


@dataclass(frozen=True)
class Refused:
    """There is none, and repeating the same build is pointless."""

    situation: Situation


@dataclass(frozen=True)
class Lost:
    """The Job is complete but its report is gone with its pod; the store has the engine."""

    situation: Situation


@dataclass(frozen=True)
class Pending:
    """The Job has ended, but its pod's end has not reached us yet."""

    situation: Situation


Verdict = Proven | Refused | Lost | Pending


def judge(order: Order, job: Job, pods: Sequence[Pod]) -> Verdict:
    """The verdict on an ended Job. `pods` are those of the Job, the youngest first."""
    if job.complete:
        return _complete(order, job, pods)
    report = _report(pods)
    if isinstance(report, Failed):
        return Refused(stalled(report.reason.value, _with_tries(report.message, job)))
    if job.failed == "DeadlineExceeded":
        return Refused(_deadline(order))
    return Refused(_unreported(order, job, pods))


def early(order: Order, pods: Sequence[Pod]) -> Proven | None:
    """An engine whose pod has reported it while its Job still takes notice of that."""
    report = _report(pods)
    if isinstance(report, Succeeded) and _SAFE_PATH.match(report.path):
        return Proven(_engine(order, report))
    return None


def retrying(pods: Sequence[Pod]) -> Situation | None:
    """Between two tries: what the last one said."""
    ended = [pod for pod in pods if pod.lost or (pod.termination and pod.termination.exit_code)]
    if not ended:
        return None
    report = _report(ended)
    text = report.message if isinstance(report, Failed) else _exit_text(ended[0])
    return reconciling(reasons.RETRYING, f"the last try failed and is repeated: {text}")


def _report(pods: Sequence[Pod]) -> Succeeded | Failed | None:
    """The report of the youngest pod that left one; a success counts before any failure."""
    reports = [
        report
        for pod in pods
        if pod.termination and (report := parse_outcome(pod.termination.message))
    ]
    success = next((report for report in reports if isinstance(report, Succeeded)), None)
    return success or next(iter(reports), None)


def _complete(order: Order, job: Job, pods: Sequence[Pod]) -> Verdict:
    proven = early(order, pods)
    if proven is not None:
        return proven
    if not pods:
        text = "the build is complete but its pod is gone with the report; asking the store again"
        return Lost(reconciling(reasons.BUILD_LOST, text))
    if all(pod.termination is None for pod in pods):
        return Pending(reconciling(reasons.BUILDING, "reading the build's report"))
    return Refused(
        stalled(
            reasons.UNREADABLE_REPORT,
            f"Job {job.meta.name} is complete but left no report that this operator can read; "
            f"use the builder image of the operator's own version (now {order.image})",
        )
    )


def _engine(order: Order, report: Succeeded) -> EngineStatus:
    known = report.model_dump(exclude={"kind", "engine_id", "seconds", "proof", "warnings"})
    return EngineStatus(
        id=report.engine_id,
        **recorded(order.store),
        build_seconds=round(report.seconds),
        scores=_scores(report.proof) if report.proof else {},
        **_gpus(order),
        **known,
    )


def _gpus(order: Order) -> dict[str, str]:
    """Where the engine can be served: plans run on the GPUs that they were compiled for."""
    asked = order.request
    if asked.tensorrt is None or not asked.tensorrt.compute_capability:
        return {}
    measured = {"gpu_product": order.pool.product} if asked.platform and order.pool else {}
    return {"compute_capability": asked.tensorrt.compute_capability, **measured}


def _scores(proof: ProofSummary) -> dict[str, str]:
    """Figures as decimals: an API object holds no floating point numbers."""
    figures = {
        "perplexity": proof.perplexity,
        "referencePerplexity": proof.reference_perplexity,
        "top1Agreement": proof.top1_agreement,
        "klDivergence": proof.kl_divergence,
        **{task.metric.value: task.score for task in proof.tasks},
    }
    return {name: f"{value:.6g}" for name, value in figures.items()}


def _with_tries(message: str, job: Job) -> str:
    return f"{message} (tried {job.failures} times)" if job.failures > 1 else message


def _deadline(order: Order) -> Situation:
    limit = order.engine.spec.build.active_deadline_seconds
    return stalled(
        reasons.DEADLINE_EXCEEDED,
        f"the build took longer than spec.build.activeDeadlineSeconds = {limit}; raise it, or "
        "give the build more CPU",
    )


def _unreported(order: Order, job: Job, pods: Sequence[Pod]) -> Situation:
    ended = next((pod for pod in pods if pod.termination or pod.lost), None)
    if ended is None:
        text = f"Job {job.meta.name} failed ({job.failed}) and its pods are gone"
        return stalled(reasons.BUILD_FAILED, f"{text}; {_AGAIN}")
    if ended.termination and ended.termination.reason == "OOMKilled":
        limit = order.engine.spec.build.resources.limits.get("memory", "not set")
        return stalled(
            reasons.OUT_OF_MEMORY,
            "the build was killed for using more memory than allowed; raise "
            f"spec.build.resources.limits.memory (now {limit})",
        )
    return stalled(reasons.BUILD_FAILED, f"{_exit_text(ended)}; {_AGAIN}")


_AGAIN: Final = "to build again, set spec.rebuildPolicy.trigger to another text"


def _exit_text(pod: Pod) -> str:
    if pod.lost is not None:
        reason, message = pod.lost
        return f"pod {pod.meta.name} was ended from outside ({reason}: {message})"
    assert pod.termination is not None
    return (
        f"the builder ended with exit code {pod.termination.exit_code} and left no report; see "
        f"kubectl logs --namespace {pod.meta.namespace} {pod.meta.name}"
    )
