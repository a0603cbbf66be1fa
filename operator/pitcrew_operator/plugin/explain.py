"""`kubectl pitcrew explain`: why a resource is as it is, with the evidence that people look for next."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pitcrew_operator.api.autoscaling import AutoscalingStatus
from pitcrew_operator.kinds import ENGINE, Raw
from pitcrew_operator.plan.conditions import Health, find, recall
from pitcrew_operator.plan.pods import newest, why_not_running
from pitcrew_operator.plan.scaling_words import unusual
from pitcrew_operator.plugin.status import OLDER
from pitcrew_operator.plugin.subject import Subject
from pitcrew_operator.plugin.tables import age, table
from pitcrew_operator.views import (
    Deployment,
    Engine,
    InvalidResource,
    Pod,
    deployment_of,
    engine_of,
    job_of,
    pod_of,
)

EVENTS = 10


@dataclass(frozen=True)
class Evidence:
    """What lies around a resource."""

    jobs: Sequence[Raw] = ()
    pods: Sequence[Raw] = ()
    events: Sequence[Raw] = ()
    """Those about the resource and its pods."""
    log: str = ""
    """The last lines of the youngest pod that failed."""
    engine: Raw | None = None
    """The LLMEngine that a deployment names."""


def explain(subject: Subject, evidence: Evidence, now: datetime) -> list[str]:
    """The verdict, then what it rests on."""
    lines = [*_verdict(subject, now), *_source(evidence, now)]
    for title, part in (
        ("Jobs", _jobs(evidence.jobs, now)),
        ("Pods", _pods(evidence.pods, now)),
        ("Last words of a pod that failed", evidence.log.splitlines()),
        ("Events", _events(evidence.events, now)),
    ):
        if part:
            lines += ["", title, *(f"  {line}" for line in part)]
    return lines


def failing(pods: Sequence[Raw]) -> Raw | None:
    """The youngest pod whose container ended badly: its log tells more than any status."""
    by_name = {raw["metadata"]["name"]: raw for raw in pods}
    for pod in newest(map(pod_of, pods)):
        if not pod.ready and pod.termination is not None and pod.termination.exit_code:
            return by_name[pod.meta.name]
    return None


def _verdict(subject: Subject, now: datetime) -> list[str]:
    try:
        resource: Engine | Deployment = (
            engine_of(subject.raw) if subject.kind is ENGINE else deployment_of(subject.raw)
        )
    except InvalidResource as error:
        return [f"{subject} is not valid: {error.problem}"]
    told = resource.status.conditions
    situation = recall(told)
    if situation is None:
        return [
            f"{subject} was not seen by an operator: none runs, or it serves other namespaces.",
            "  See `kubectl get deployments -A -l app.kubernetes.io/component=operator`.",
        ]
    verdicts = {
        Health.READY: "is ready",
        Health.RECONCILING: "is on its way",
        Health.STALLED: "is stuck until something is changed",
    }
    lines = [
        f"{subject} {verdicts[situation.health]}.",
        f"  {situation.reason}: {situation.message}",
    ]
    seen = find(told, situation.health.value)
    if seen is not None and seen.observed_generation < resource.meta.generation:
        lines.append(f"  {OLDER}")
    fact = find(told, "UpToDate")
    if fact is not None and fact.status != "True":
        lines.append(f"  Not up to date: {fact.reason}: {fact.message}")
    lines += [
        f"  {each.type}={each.status}: {each.reason}: {each.message}" for each in unusual(told)
    ]
    decided = getattr(resource.status, "autoscaling", None)
    if isinstance(decided, AutoscalingStatus) and decided.message:
        lines.append(f"  Last scaled {age(decided.last_scale_time, now)} ago: {decided.message}.")
    return lines


def _source(evidence: Evidence, now: datetime) -> list[str]:
    """How the engine of a deployment stands: most deployments wait for that."""
    if evidence.engine is None:
        return []
    name = evidence.engine["metadata"]["name"]
    verdict = _verdict(Subject(ENGINE, evidence.engine), now)
    return ["", f"Its engine, llmengine/{name}", *(f"  {line}" for line in verdict)]


def _jobs(jobs: Sequence[Raw], now: datetime) -> list[str]:
    rows = []
    for job in sorted(map(job_of, jobs), key=lambda job: job.created, reverse=True):
        end = "complete" if job.complete else f"failed: {job.failed}" if job.failed else ""
        state = end or ("queued" if job.suspended else "running")
        rows.append([job.meta.name, job.component, state, str(job.failures), age(job.created, now)])
    return table(("NAME", "FOR", "STATE", "FAILED PODS", "AGE"), rows) if rows else []


def _pods(pods: Sequence[Raw], now: datetime) -> list[str]:
    found = newest(map(pod_of, pods))
    rows = [
        [pod.meta.name, "yes" if pod.ready else "no", _state(pod), age(pod.created, now)]
        for pod in found
    ]
    return table(("NAME", "READY", "STATE", "AGE"), rows) if rows else []


def _state(pod: Pod) -> str:
    trouble = why_not_running(pod, None)
    if trouble is not None:
        return f"{trouble.reason}: {trouble.message}"
    end = pod.termination
    if end is not None and end.exit_code:
        return f"{end.reason or 'ended'} with {end.exit_code}: {end.message.splitlines()[0] if end.message else 'see its log'}"
    return "running" if pod.running else "ended" if end is not None else "starting"


def _events(events: Sequence[Raw], now: datetime) -> list[str]:
    def moment(event: Raw) -> str:
        series = event.get("series") or {}
        told = (
            series.get("lastObservedTime"),
            event.get("eventTime"),
            event.get("deprecatedLastTimestamp"),
        )
        return next((str(time) for time in told if time), "")

    last = sorted(events, key=moment)[-EVENTS:]
    rows = [
        [age(moment(e), now), str(e.get("type") or ""), str(e.get("reason") or ""), _about(e)]
        for e in last
    ]
    return table(("AGE", "TYPE", "REASON", "WHAT"), rows) if rows else []


def _about(event: Raw) -> str:
    regarding = event.get("regarding") or {}
    note = " ".join(str(event.get("note") or "").split())
    return f"{regarding.get('kind', '').lower()}/{regarding.get('name', '')}: {note}"
