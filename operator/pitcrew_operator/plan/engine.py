"""What to do about an LLMEngine.

The life of a spec: find the store, find or start the Job of this spec's hash, watch it, record its
outcome. What is recorded stays settled until the hash changes; the engine that was proven last
stays in the status until another one is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from pitcrew_builder.report import Progress
from pitcrew_operator import reasons
from pitcrew_operator.api.engine import BuildStatus, EngineStatus, LLMEngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import JOB
from pitcrew_operator.manifests.build_job import Build, job_manifest
from pitcrew_operator.manifests.store import store_manifest
from pitcrew_operator.plan import outcome
from pitcrew_operator.plan.actions import Action, Apply, Delete, Requeue, WriteStatus
from pitcrew_operator.plan.conditions import (
    Situation,
    conditions,
    ready,
    reconciling,
    stalled,
    transition,
)
from pitcrew_operator.plan.pods import newest, why_not_running
from pitcrew_operator.views import Claim, Engine, Job, Pod

RUNNING: Final = "Running"
SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"


@dataclass(frozen=True)
class EngineSeen:
    """What the cluster holds for one engine."""

    store: Claim | None = None
    source: Claim | None = None
    jobs: tuple[Job, ...] = ()
    pods: tuple[Pod, ...] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """Newest progress by Job name."""


@dataclass(frozen=True)
class Step:
    """One step's result: where the engine stands, what to write and what to do."""

    situation: Situation
    actions: tuple[Action, ...] = ()
    progress: str | None = None
    engine: EngineStatus | None = None
    build: BuildStatus | None = None


def plan_engine(engine: Engine, seen: EngineSeen, now: datetime, config: Config) -> list[Action]:
    """The actions that bring the engine closer to its spec; empty where nothing is to do."""
    if engine.meta.deleting:
        return []
    step = _step(engine, seen, now, config)
    return [*step.actions, *_report(engine, step, now)]


def _report(engine: Engine, step: Step, now: datetime) -> list[Action]:
    before = engine.status
    status = LLMEngineStatus(
        observed_generation=engine.meta.generation,
        conditions=conditions(step.situation, engine.meta.generation, before.conditions, now),
        model=engine.spec.model.display_name,
        progress=step.progress,
        engine=step.engine or before.engine,
        build=step.build or before.build,
    )
    if status == before:
        return []
    events = transition(engine.kind, engine.meta, before, step.situation, now)
    return [WriteStatus(engine.kind, engine.meta, status), *events]


def _step(engine: Engine, seen: EngineSeen, now: datetime, config: Config) -> Step:
    try:
        engine.spec.build_spec()
    except ValueError as error:
        return Step(stalled(reasons.INVALID_SPEC, f"spec is impossible: {error}"))
    if seen.store is None:
        return _without_store(engine, config)
    build = Build(engine, seen.store, config)
    cleaned = _superseded(build, seen.jobs)
    step = _follow(build, seen, now)
    return replace(step, actions=(*cleaned, *step.actions))


def _without_store(engine: Engine, config: Config) -> Step:
    name, namespace = engine.spec.store.claim_name, engine.meta.namespace
    if name is None:
        text = f"creating PersistentVolumeClaim {config.store_claim} for the engines"
        situation = reconciling(reasons.CREATING_STORE, text)
        return Step(situation, (Apply(store_manifest(namespace, config)),))
    return Step(
        reconciling(
            reasons.STORE_NOT_FOUND,
            f"PersistentVolumeClaim {name} of spec.store.claimName does not exist in namespace "
            f"{namespace}; create it, or leave spec.store out to use the operator's own",
        )
    )


def _superseded(build: Build, jobs: Sequence[Job]) -> list[Action]:
    """Jobs of earlier specs are of no more use, running or not."""
    return [
        _delete(job) for job in jobs if job.meta.name != build.job_name and not job.meta.deleting
    ]


def _delete(job: Job) -> Delete:
    return Delete(JOB, job.meta.namespace, job.meta.name, job.meta.uid)


def _follow(build: Build, seen: EngineSeen, now: datetime) -> Step:
    """Settled, absent, going, ended: the state of this spec's build."""
    job = next((job for job in seen.jobs if job.meta.name == build.job_name), None)
    settled = _settled(build)
    if settled is not None:
        return replace(settled, actions=_retire(job, now, build.config))
    if job is None:
        return _start(build, seen)
    if job.meta.deleting:
        text = f"waiting for the earlier Job {job.meta.name} to be gone"
        return Step(reconciling(reasons.WAITING_FOR_DELETION, text))
    pods = newest(pod for pod in seen.pods if pod.job_name == job.meta.name)
    if job.complete or job.failed:
        return _ended(build, job, pods)
    return _going(build, pods, seen.progress.get(job.meta.name))


def _settled(build: Build) -> Step | None:
    """What was recorded for this very spec, if its build has ended."""
    status = build.engine.status
    if status.build is None or status.build.spec_hash != build.spec_hash:
        return None
    if status.build.state == SUCCEEDED and status.engine is not None:
        return Step(_ready(status.engine))
    if status.build.state == FAILED and status.build.reason:
        return Step(stalled(status.build.reason, status.build.message or ""))
    return None


def _ready(engine: EngineStatus) -> Situation:
    return ready(reasons.ENGINE_READY, f"engine {engine.tag} is published and proven")


def _retire(job: Job | None, now: datetime, config: Config) -> tuple[Action, ...]:
    """A finished Job is kept for its logs for a while."""
    if job is None or job.meta.deleting or job.finished_at is None:
        return ()
    ends = job.finished_at + timedelta(seconds=config.job_retention_seconds)
    left = (ends - now).total_seconds()
    return (_delete(job),) if left <= 0 else (Requeue(left),)


def _start(build: Build, seen: EngineSeen) -> Step:
    claim = build.engine.spec.model.claim_name
    if claim is not None and seen.source is None:
        return Step(
            reconciling(
                reasons.SOURCE_VOLUME_NOT_FOUND,
                f"PersistentVolumeClaim {claim} of spec.model.volume.claimName does not exist in "
                f"namespace {build.engine.meta.namespace}; create it, and the build starts",
            )
        )
    return Step(
        reconciling(reasons.BUILD_STARTING, f"starting Job {build.job_name}"),
        actions=(Apply(job_manifest(build)),),
        build=_record(build, RUNNING),
    )


def _record(build: Build, state: str) -> BuildStatus:
    return BuildStatus(job_name=build.job_name, spec_hash=build.spec_hash, state=state)


def _going(build: Build, pods: Sequence[Pod], progress: Progress | None) -> Step:
    proven = outcome.early(build, pods)
    if proven is not None:
        return _proven(build, proven.engine)
    running = _record(build, RUNNING)
    pod = pods[0] if pods else None
    if pod is not None and pod.running:
        text = f"{progress.phase} {progress.percent}%" if progress else "Starting"
        situation = reconciling(reasons.BUILDING, f"Job {build.job_name} is building the engine")
        again = Requeue(build.config.log_poll_seconds)
        return Step(situation, (again,), progress=text, build=running)
    situation = (
        (why_not_running(pod, build.store.name) if pod else None)
        or outcome.retrying(pods)
        or reconciling(reasons.BUILD_STARTING, f"Job {build.job_name} is starting")
    )
    return Step(situation, progress="Starting", build=running)


def _ended(build: Build, job: Job, pods: Sequence[Pod]) -> Step:
    verdict = outcome.judge(build, job, pods)
    match verdict:
        case outcome.Proven(engine):
            return _proven(build, engine)
        case outcome.Refused(situation):
            return _failed(build, situation)
        case outcome.Lost(situation):
            return Step(situation, (_delete(job),), build=_record(build, RUNNING))
        case outcome.Pending(situation):
            return Step(situation, (Requeue(1.0),), build=_record(build, RUNNING))


def _proven(build: Build, engine: EngineStatus) -> Step:
    return Step(_ready(engine), build=_record(build, SUCCEEDED), engine=engine)


def _failed(build: Build, situation: Situation) -> Step:
    """Record why, so that it stays told after the Job is gone."""
    earlier = build.engine.status.engine
    kept = f" The earlier engine {earlier.tag} stays in service." if earlier else ""
    told = replace(situation, message=situation.message + kept)
    failed = BuildStatus(
        job_name=build.job_name,
        spec_hash=build.spec_hash,
        state=FAILED,
        reason=told.reason,
        message=told.message,
    )
    return Step(told, build=failed)
