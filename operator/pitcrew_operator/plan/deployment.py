"""What to do about an LLMDeployment: wait for its engine, then keep a Deployment and a Service."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pitcrew_operator import reasons
from pitcrew_operator.api.deployment import LLMDeploymentStatus, ServedEngine
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import DEPLOYMENT, Raw
from pitcrew_operator.manifests.serving import (
    deployment_manifest,
    selector_text,
    service_manifest,
    service_url,
)
from pitcrew_operator.plan.actions import Action, Apply, Requeue, WriteStatus
from pitcrew_operator.plan.conditions import (
    Situation,
    conditions,
    ready,
    reconciling,
    stalled,
    transition,
)
from pitcrew_operator.plan.match import is_applied
from pitcrew_operator.plan.pods import last_report, newest, why_not_running
from pitcrew_operator.plan.served import served
from pitcrew_operator.views import Deployment, Engine, Pod, Rollout, meta_of, rollout_of

_LOOK_AGAIN: Final = 10.0


@dataclass(frozen=True)
class DeploymentSeen:
    """What the cluster holds for one LLMDeployment."""

    engine: Engine | None = None
    workload: Raw | None = None
    """The built-in Deployment of the name, ours or not."""
    service: Raw | None = None
    pods: tuple[Pod, ...] = ()


@dataclass(frozen=True)
class Step:
    """Where the deployment stands, and what to do."""

    situation: Situation
    actions: tuple[Action, ...] = ()
    served: ServedEngine | None = None
    url: str | None = None


def plan_deployment(
    owner: Deployment, seen: DeploymentSeen, now: datetime, config: Config
) -> list[Action]:
    """The actions that bring the replicas closer to the spec; empty where nothing is to do."""
    if owner.meta.deleting:
        return []
    step = _step(owner, seen, config)
    return [*step.actions, *_report(owner, seen, step, now)]


def _report(owner: Deployment, seen: DeploymentSeen, step: Step, now: datetime) -> list[Action]:
    before = owner.status
    rollout = _rollout(owner, seen)
    status = LLMDeploymentStatus(
        observed_generation=owner.meta.generation,
        conditions=conditions(step.situation, owner.meta.generation, before.conditions, now),
        replicas=rollout.replicas if rollout else 0,
        ready_replicas=rollout.ready if rollout else 0,
        updated_replicas=rollout.updated if rollout else 0,
        selector=selector_text(owner),
        engine=step.served or before.engine,
        previous_engine=_previous(before, step.served),
        url=step.url or before.url,
    )
    if status == before:
        return []
    events = transition(owner.kind, owner.meta, before, step.situation, now)
    return [WriteStatus(owner.kind, owner.meta, status), *events]


def _previous(before: LLMDeploymentStatus, served: ServedEngine | None) -> ServedEngine | None:
    """What was served before the engine changed: the one to go back to."""
    changed = served is not None and before.engine is not None and served.id != before.engine.id
    return before.engine if changed else before.previous_engine


def _rollout(owner: Deployment, seen: DeploymentSeen) -> Rollout | None:
    ours = seen.workload is not None and meta_of(seen.workload).controller_uid == owner.meta.uid
    return rollout_of(seen.workload) if seen.workload is not None and ours else None


def _step(owner: Deployment, seen: DeploymentSeen, config: Config) -> Step:
    engine = served(owner, seen.engine)
    if isinstance(engine, Situation):
        return Step(engine)
    assert seen.engine is not None, "an engine was found in it"
    blocked = _blocked(owner, seen)
    if blocked is not None:
        return Step(blocked, (Requeue(_LOOK_AGAIN),))
    return _serve(owner, seen, seen.engine, engine, config)


def _serve(
    owner: Deployment, seen: DeploymentSeen, source: Engine, engine: EngineStatus, config: Config
) -> Step:
    model = source.spec.model.name or engine.model
    try:
        workload = deployment_manifest(owner, engine, model, config)
    except ValueError as error:
        return Step(stalled(reasons.INVALID_SPEC, f"spec.runtime.kvMemory: {error}"))
    wanted = ((service_manifest(owner), seen.service), (workload, seen.workload))
    missing = tuple(
        Apply(manifest) for manifest, found in wanted if not is_applied(manifest, found)
    )
    return Step(
        _progress(owner, seen, engine, missing),
        missing,
        served=ServedEngine(name=source.meta.name, id=engine.id, tag=engine.tag),
        url=service_url(owner),
    )


def _progress(
    owner: Deployment, seen: DeploymentSeen, engine: EngineStatus, missing: Sequence[Action]
) -> Situation:
    """Ready only where every pod is of the newest template, proven and available."""
    replicas = 1 if owner.spec.replicas is None else owner.spec.replicas
    rollout = _rollout(owner, seen)
    if missing or rollout is None or not rollout.current:
        return reconciling(reasons.ROLLING_OUT, f"rolling out engine {engine.tag}")
    counts = {rollout.replicas, rollout.updated, rollout.ready, rollout.available}
    if counts == {replicas}:
        return _ready(replicas, engine)
    return _trouble(engine, seen.pods) or _still_rolling(replicas, rollout, engine)


def _ready(replicas: int, engine: EngineStatus) -> Situation:
    if replicas == 0:
        return ready(reasons.SCALED_TO_ZERO, "spec.replicas is 0; no pod runs")
    return ready(reasons.SERVING, f"{replicas} of {replicas} replicas serve engine {engine.tag}")


def _trouble(engine: EngineStatus, pods: Sequence[Pod]) -> Situation | None:
    current = newest(pods)
    for pod in current:
        problem = why_not_running(pod, engine.claim_name)
        if problem is not None:
            return problem
    report = last_report(current)
    if report is None:
        return None
    reason, message, final = report
    return stalled(reason, message) if final else reconciling(reason, message)


def _still_rolling(replicas: int, rollout: Rollout, engine: EngineStatus) -> Situation:
    text = (
        f"{min(rollout.updated, rollout.available)} of {replicas} replicas serve engine "
        f"{engine.tag}"
    )
    old = rollout.replicas - rollout.updated
    waits = f"; {old} old ones are still to go" if old > 0 else ""
    late = "; the rollout takes longer than spec.runtime.startupSeconds allows"
    suffix = late if rollout.deadline_exceeded else waits
    return reconciling(reasons.ROLLING_OUT, text + suffix)


def _blocked(owner: Deployment, seen: DeploymentSeen) -> Situation | None:
    """A namesake that is not ours, or one that is on its way out."""
    for raw in (seen.service, seen.workload):
        if raw is None:
            continue
        meta = meta_of(raw)
        if meta.deleting or _is_predecessor(owner, meta.controller):
            text = f"waiting for the earlier {raw['kind']} {meta.name} to be gone"
            return reconciling(reasons.WAITING_FOR_DELETION, text)
        if meta.controller_uid != owner.meta.uid:
            return stalled(
                reasons.NAME_CONFLICT,
                f"{raw['kind']} {meta.name} exists in namespace {meta.namespace} and does not "
                "belong to this LLMDeployment; delete it or give the LLMDeployment another name",
            )
    return None


def _is_predecessor(owner: Deployment, controller: tuple[str, str, str] | None) -> bool:
    """Owned by a deleted LLMDeployment of the same name: the garbage collector is on its way."""
    if controller is None:
        return False
    kind, name, uid = controller
    return (kind, name) == (DEPLOYMENT.kind, owner.meta.name) and uid != owner.meta.uid
