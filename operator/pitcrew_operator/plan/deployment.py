"""What to do about an LLMDeployment: wait for its engine, then keep its replicas and a Service."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pitcrew_operator import reasons
from pitcrew_operator.api.common import Condition
from pitcrew_operator.api.deployment import LLMDeploymentStatus, ServedEngine
from pitcrew_operator.api.rollout import RolloutStatus
from pitcrew_operator.kinds import DEPLOYMENT, LEADER_WORKER_SET
from pitcrew_operator.manifests.names import ENGINE_ID_ANNOTATION, ENGINE_TAG_ANNOTATION
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.manifests.service import selector_text, service_url
from pitcrew_operator.plan import beside, progress, usage
from pitcrew_operator.plan.actions import Action, Requeue, WriteStatus
from pitcrew_operator.plan.conditions import (
    Fact,
    Health,
    Situation,
    conditions,
    is_first_word,
    reconciling,
    stalled,
    transition,
)
from pitcrew_operator.plan.memory import recall, resting
from pitcrew_operator.plan.replicas import Fleet, rescale
from pitcrew_operator.plan.rolling import Rolling, roll
from pitcrew_operator.plan.rollout.course import frozen
from pitcrew_operator.plan.rollout.step import step
from pitcrew_operator.plan.scaling import Scaling, scale, settled
from pitcrew_operator.plan.scaling_words import CONDITIONS
from pitcrew_operator.plan.seen import DeploymentSeen
from pitcrew_operator.plan.wish import budget_of
from pitcrew_operator.views import Deployment, Workload, meta_of

_LOOK_AGAIN: Final = 10.0


@dataclass(frozen=True)
class Step:
    """Where the deployment stands, and what to do."""

    situation: Situation
    actions: tuple[Action, ...] = ()
    served: ServedEngine | None = None
    url: str | None = None
    rollout: RolloutStatus | None = None
    facts: tuple[Fact, ...] = ()


def plan_deployment(owner: Deployment, seen: DeploymentSeen, now: datetime) -> list[Action]:
    """The actions that bring the replicas closer to the spec; empty where nothing is to do."""
    if owner.meta.deleting:
        return []
    fleet = Fleet.of(owner.meta.uid, seen.workloads)
    scaling = scale(owner, seen, fleet, now)
    owner = settled(owner, fleet)
    taken = _step(owner, seen, fleet, now)
    return [*taken.actions, *_report(owner, seen, fleet, taken, scaling, now)]


def _report(
    owner: Deployment,
    seen: DeploymentSeen,
    fleet: Fleet,
    taken: Step,
    scaling: Scaling | None,
    now: datetime,
) -> list[Action]:
    before, generation = owner.status, owner.meta.generation
    updated = _updated(seen, fleet)
    status = LLMDeploymentStatus(
        observed_generation=generation,
        conditions=_conditions(owner, taken, scaling, now),
        replicas=fleet.present,
        ready_replicas=fleet.ready,
        updated_replicas=updated.replicas if updated else 0,
        selector=selector_text(owner),
        engine=taken.served or before.engine,
        previous_engine=_previous(before, taken.served),
        gpu_utilization_percent=usage.told(before.gpu_utilization_percent, seen.gpu_percent),
        autoscaling=scaling.status if scaling else None,
        url=taken.url or before.url,
        rollout=taken.rollout or before.rollout,
    )
    if status == before:
        return []
    # Until something serves, a rollout remembers nothing that it would not begin with.
    can_wait = is_first_word(before.conditions, taken.situation)
    events = transition(owner.kind, owner.meta, before, taken.situation, now, can_wait=can_wait)
    if taken.rollout is not None:
        events += progress.step_event(owner, taken.rollout, taken.situation.message, now)
    events += scaling.events if scaling else ()
    return [WriteStatus(owner.kind, owner.meta, status, can_wait), *events]


def _conditions(
    owner: Deployment, taken: Step, scaling: Scaling | None, now: datetime
) -> tuple[Condition, ...]:
    """What was said of autoscaling goes with it."""
    known: Iterable[Condition] = owner.status.conditions
    facts = taken.facts
    if scaling is None:
        known = [condition for condition in known if condition.type not in CONDITIONS]
    else:
        facts += scaling.facts
    return conditions(taken.situation, owner.meta.generation, known, now, facts)


def _previous(before: LLMDeploymentStatus, served: ServedEngine | None) -> ServedEngine | None:
    """What was served before the engine changed: the one to go back to."""
    changed = served is not None and before.engine is not None and served.id != before.engine.id
    return before.engine if changed else before.previous_engine


def _updated(seen: DeploymentSeen, fleet: Fleet) -> Workload | None:
    """The workload of what the spec asks for."""
    return fleet.of_revision(seen.target.hash) if isinstance(seen.target, Revision) else None


def _step(owner: Deployment, seen: DeploymentSeen, fleet: Fleet, now: datetime) -> Step:
    if isinstance(seen.target, Situation):
        return _rest(owner, seen.target, *_keep(owner, fleet))
    blocked = _blocked(owner, seen, seen.target)
    if blocked is not None:
        return _rest(owner, blocked, Requeue(_LOOK_AGAIN))
    if seen.target.pods > 1 and not seen.has_groups:
        return _rest(owner, _no_groups(seen.target), Requeue(_LOOK_AGAIN))
    return _serve(owner, seen, seen.target, fleet, now)


def _rest(owner: Deployment, why: Situation, *actions: Action) -> Step:
    """A rollout cannot go on, or there is none."""
    return Step(why, actions, rollout=resting(owner.status.rollout))


def _no_groups(target: Revision) -> Situation:
    return stalled(
        reasons.LEADER_WORKER_SET_MISSING,
        f"a replica of engine {target.engine.tag} takes {target.pods} pods, and the cluster does not "
        f"know {LEADER_WORKER_SET.kind} ({LEADER_WORKER_SET.api_version}); install the "
        f"LeaderWorkerSet controller, or leave spec.ranksPerPod out to hold all "
        f"{target.engine.world_size} ranks in one pod",
    )


def _keep(owner: Deployment, fleet: Fleet) -> list[Action]:
    """Without anything to roll to, what serves goes on serving, and scales."""
    record = recall(owner.status.rollout)
    if record is None:
        return []
    goals = frozen(record, fleet.counts, owner.spec.wanted_replicas)
    order = [*goals, *sorted(fleet.counts.keys() - goals.keys())]
    return rescale(fleet, step(fleet.counts, goals, order, budget_of(owner)))


def _serve(
    owner: Deployment, seen: DeploymentSeen, target: Revision, fleet: Fleet, now: datetime
) -> Step:
    around = beside.changes(owner, seen.beside, target.pods)
    rolling = roll(owner, target, fleet, seen, now)
    situation = progress.situation_of(owner, target, fleet, rolling)
    if situation.health is Health.READY:
        situation = _awaited(around) or beside.unmet(owner, seen.beside) or situation
    return Step(
        situation,
        (*around, *rolling.moves, *rolling.questions),
        served=_served(owner, target, fleet, rolling),
        url=service_url(owner),
        rollout=progress.status_of(owner, target, fleet, rolling),
        facts=(progress.fact_of(target, rolling),),
    )


def _awaited(around: tuple[Action, ...]) -> Situation | None:
    """What stands beside the pods is to be there before anything is called ready."""
    text = "setting up what stands beside the replicas"
    return reconciling(reasons.ROLLING_OUT, text) if around else None


def _served(owner: Deployment, target: Revision, fleet: Fleet, rolling: Rolling) -> ServedEngine:
    """The engine of the stable revision; of the target where there is none yet."""
    name, stable = owner.spec.engine_ref.name, rolling.course.record.stable
    if stable in (None, target.hash) or stable not in fleet.workloads:
        return ServedEngine(name=name, id=target.engine.id, tag=target.engine.tag)
    told = fleet.workloads[stable].meta.annotations
    id_, known = told.get(ENGINE_ID_ANNOTATION, ""), owner.status.engine
    if known is not None and known.id == id_:
        return known
    return ServedEngine(name=name, id=id_, tag=told.get(ENGINE_TAG_ANNOTATION, ""))


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
