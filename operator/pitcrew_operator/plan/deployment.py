"""What to do about an LLMDeployment: wait for its engine, then keep its replicas and a Service."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pitcrew_operator import reasons
from pitcrew_operator.api.deployment import LLMDeploymentStatus, ServedEngine
from pitcrew_operator.api.version import EngineStatus
from pitcrew_operator.kinds import DEPLOYMENT, LEADER_WORKER_SET, Raw
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.manifests.service import selector_text, service_url
from pitcrew_operator.plan import beside
from pitcrew_operator.plan.actions import Action, Requeue, WriteStatus
from pitcrew_operator.plan.beside import Beside
from pitcrew_operator.plan.conditions import (
    Situation,
    conditions,
    ready,
    reconciling,
    stalled,
    transition,
)
from pitcrew_operator.plan.pods import last_report, newest, why_not_running
from pitcrew_operator.plan.replicas import Fleet, change
from pitcrew_operator.plan.rollout.step import Budget, step
from pitcrew_operator.views import Deployment, Pod, Workload, meta_of

_LOOK_AGAIN: Final = 10.0


@dataclass(frozen=True)
class DeploymentSeen:
    """What the cluster holds for one LLMDeployment."""

    target: Revision | Situation
    """What the spec asks for, by `target.target_of`."""
    workloads: tuple[Raw, ...] = ()
    """Those of its revisions, and a namesake of the target's, ours or not."""
    beside: Beside = field(default_factory=Beside)
    pods: tuple[Pod, ...] = ()
    has_groups: bool = False
    """Whether the cluster knows LeaderWorkerSets."""


@dataclass(frozen=True)
class Step:
    """Where the deployment stands, and what to do."""

    situation: Situation
    actions: tuple[Action, ...] = ()
    served: ServedEngine | None = None
    url: str | None = None


def plan_deployment(owner: Deployment, seen: DeploymentSeen, now: datetime) -> list[Action]:
    """The actions that bring the replicas closer to the spec; empty where nothing is to do."""
    if owner.meta.deleting:
        return []
    fleet = Fleet.of(owner.meta.uid, seen.workloads)
    step = _step(owner, seen, fleet)
    return [*step.actions, *_report(owner, seen, fleet, step, now)]


def _report(
    owner: Deployment, seen: DeploymentSeen, fleet: Fleet, step: Step, now: datetime
) -> list[Action]:
    before = owner.status
    updated = _updated(seen, fleet)
    status = LLMDeploymentStatus(
        observed_generation=owner.meta.generation,
        conditions=conditions(step.situation, owner.meta.generation, before.conditions, now),
        replicas=fleet.present,
        ready_replicas=fleet.ready,
        updated_replicas=updated.replicas if updated else 0,
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


def _updated(seen: DeploymentSeen, fleet: Fleet) -> Workload | None:
    """The workload of what the spec asks for."""
    return fleet.of_revision(seen.target.hash) if isinstance(seen.target, Revision) else None


def _step(owner: Deployment, seen: DeploymentSeen, fleet: Fleet) -> Step:
    if isinstance(seen.target, Situation):
        return Step(seen.target)
    blocked = _blocked(owner, seen, seen.target)
    if blocked is not None:
        return Step(blocked, (Requeue(_LOOK_AGAIN),))
    if seen.target.pods > 1 and not seen.has_groups:
        return Step(_no_groups(seen.target), (Requeue(_LOOK_AGAIN),))
    return _serve(owner, seen, seen.target, fleet)


def _no_groups(target: Revision) -> Situation:
    return stalled(
        reasons.LEADER_WORKER_SET_MISSING,
        f"a replica of engine {target.engine.tag} takes {target.pods} pods, and the cluster does not "
        f"know {LEADER_WORKER_SET.kind} ({LEADER_WORKER_SET.api_version}); install the "
        f"LeaderWorkerSet controller, or leave spec.ranksPerPod out to hold all "
        f"{target.engine.world_size} ranks in one pod",
    )


def _serve(owner: Deployment, seen: DeploymentSeen, target: Revision, fleet: Fleet) -> Step:
    engine, around = target.engine, beside.changes(owner, seen.beside, target.pods)
    budget = Budget(_wanted(owner), surge=1, unavailable=0)
    others = [hash_ for hash_ in fleet.counts if hash_ != target.hash]
    goals = {target.hash: budget.replicas}
    decided = step(fleet.counts, goals, [target.hash, *others], budget)
    moves = (*around, *change(fleet, target, decided))
    name = owner.spec.engine_ref.name
    return Step(
        _progress(owner, seen, target, fleet, moves),
        moves,
        served=ServedEngine(name=name, id=engine.id, tag=engine.tag),
        url=service_url(owner),
    )


def _wanted(owner: Deployment) -> int:
    return 1 if owner.spec.replicas is None else owner.spec.replicas


def _progress(
    owner: Deployment,
    seen: DeploymentSeen,
    target: Revision,
    fleet: Fleet,
    moves: Sequence[Action],
) -> Situation:
    """Ready only where every replica is of the target, proven and available."""
    engine, wanted, updated = target.engine, _wanted(owner), fleet.of_revision(target.hash)
    if moves or updated is None or not updated.current:
        return reconciling(reasons.ROLLING_OUT, f"rolling out engine {engine.tag}")
    if {fleet.present, updated.replicas, updated.updated, updated.ready, updated.available} == {
        wanted
    }:
        return beside.unmet(owner, seen.beside) or _ready(wanted, engine)
    return _trouble(engine, seen.pods) or _still_rolling(wanted, updated, fleet, engine)


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


def _still_rolling(wanted: int, updated: Workload, fleet: Fleet, engine: EngineStatus) -> Situation:
    serving = min(updated.updated, updated.available)
    text = f"{serving} of {wanted} replicas serve engine {engine.tag}"
    old = fleet.present - updated.replicas
    waits = f"; {old} old ones are still to go" if old > 0 else ""
    return reconciling(reasons.ROLLING_OUT, text + waits)


def _blocked(owner: Deployment, seen: DeploymentSeen, target: Revision) -> Situation | None:
    """A namesake that is not ours, or one that is on its way out."""
    namesakes = (raw for raw in seen.workloads if raw["metadata"]["name"] == target.name)
    for raw in (*beside.in_place(owner, seen.beside), *namesakes):
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
