"""What the cluster holds for one resource: from the view, and live where the view may lag.

A child that the view lacks is read live before it is believed missing: it may be somebody else's
(the watches see only ours), and creating over it would be theft.
"""

from pitcrew_builder.report import Progress
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.config import Config
from pitcrew_operator.kinds import CLAIM, ENGINE, JOB, POD, SERVICE, WORKLOAD, Kind, Raw
from pitcrew_operator.logtails import LogTails
from pitcrew_operator.plan.deployment import DeploymentSeen
from pitcrew_operator.plan.engine import EngineSeen
from pitcrew_operator.store import Store
from pitcrew_operator.views import (
    JOB_NAME_LABEL,
    Claim,
    Deployment,
    Engine,
    InvalidResource,
    Job,
    Pod,
    claim_of,
    engine_of,
    job_of,
    pod_of,
)


async def see_engine(
    engine: Engine, store: Store, cluster: Cluster, tails: LogTails, config: Config
) -> EngineSeen:
    """Everything that `plan_engine` wants to know."""
    namespace, name = engine.meta.namespace, engine.meta.name
    jobs = [job_of(raw) for raw in store.refer(JOB, namespace, f"engine={name}")]
    own = tuple(job for job in jobs if job.meta.controller_uid == engine.meta.uid)
    pods = await _build_pods(engine, own, store, cluster)
    return EngineSeen(
        store=_claim(store, namespace, engine.spec.store.claim_name or config.store_claim),
        source=_claim(store, namespace, engine.spec.model.claim_name),
        jobs=own,
        pods=pods,
        progress=await _progress(own, pods, tails),
    )


def _claim(store: Store, namespace: str, name: str | None) -> Claim | None:
    raw = store.get(CLAIM, namespace, name) if name else None
    if raw is None or raw["metadata"].get("deletionTimestamp"):
        return None
    return claim_of(raw)


async def _build_pods(
    engine: Engine, jobs: tuple[Job, ...], store: Store, cluster: Cluster
) -> tuple[Pod, ...]:
    """The pods of the engine's Jobs; live for a Job that ended unseen."""
    namespace = engine.meta.namespace
    pods = [pod_of(raw) for raw in store.refer(POD, namespace, f"engine={engine.meta.name}")]
    for job in jobs:
        known = [pod for pod in pods if pod.job_name == job.meta.name]
        if job.finished_at and not any(pod.termination for pod in known):
            live = await cluster.select(POD, namespace, f"{JOB_NAME_LABEL}={job.meta.name}")
            pods = [pod for pod in pods if pod.job_name != job.meta.name]
            pods += [pod_of(raw) for raw in live]
    return tuple(pods)


async def _progress(
    jobs: tuple[Job, ...], pods: tuple[Pod, ...], tails: LogTails
) -> dict[str, Progress]:
    """Newest progress of each Job that has a running pod."""
    going = {job.meta.name for job in jobs if not (job.finished_at or job.meta.deleting)}
    found: dict[str, Progress] = {}
    for pod in pods:
        if pod.running and pod.job_name in going:
            progress = await tails.progress(pod)
            if progress is not None:
                found[pod.job_name] = progress
    return found


async def see_deployment(owner: Deployment, store: Store, cluster: Cluster) -> DeploymentSeen:
    """Everything that `plan_deployment` wants to know."""
    namespace, name = owner.meta.namespace, owner.meta.name
    pods = store.refer(POD, namespace, f"deployment={name}")
    return DeploymentSeen(
        engine=_engine(store, namespace, owner.spec.engine_ref.name),
        workload=await _child(WORKLOAD, namespace, name, store, cluster),
        service=await _child(SERVICE, namespace, name, store, cluster),
        pods=tuple(pod_of(raw) for raw in pods),
    )


def _engine(store: Store, namespace: str, name: str) -> Engine | None:
    raw = store.get(ENGINE, namespace, name)
    if raw is None or raw["metadata"].get("deletionTimestamp"):
        return None
    try:
        return engine_of(raw)
    except InvalidResource:
        return None


async def _child(
    kind: Kind, namespace: str, name: str, store: Store, cluster: Cluster
) -> Raw | None:
    known = store.get(kind, namespace, name)
    return known if known is not None else await cluster.get(kind, namespace, name)
