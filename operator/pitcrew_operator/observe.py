"""What the cluster holds for one resource: from the view, and live where the view may lag.

A child that the view lacks is read live before it is believed missing: it may be somebody else's
(the watches see only ours), and creating over it would be theft.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pitcrew_operator.api.version import Phase
from pitcrew_operator.ask.dcgm import PodName, average
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.config import Config
from pitcrew_operator.configmaps import ConfigMaps
from pitcrew_operator.kinds import (
    CLAIM,
    ENGINE,
    INFERENCE_POOL,
    LEADER_WORKER_SET,
    POD,
    Kind,
    Raw,
)
from pitcrew_operator.logtails import LogTails
from pitcrew_operator.manifests import store as stores
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.manifests.workload import ALL, kind_for
from pitcrew_operator.observe_builds import see_pool, see_uses, see_work
from pitcrew_operator.order import Order
from pitcrew_operator.plan import beside
from pitcrew_operator.plan.autoscaling.looks import Look
from pitcrew_operator.plan.beside import Beside
from pitcrew_operator.plan.conditions import Situation
from pitcrew_operator.plan.engine import EngineSeen
from pitcrew_operator.plan.questions import Answer
from pitcrew_operator.plan.replicas import Fleet
from pitcrew_operator.plan.retention import Uses
from pitcrew_operator.plan.scaling import settled
from pitcrew_operator.plan.seen import DeploymentSeen
from pitcrew_operator.plan.target import target_of
from pitcrew_operator.store import Store
from pitcrew_operator.views import (
    Claim,
    Deployment,
    Engine,
    InvalidResource,
    claim_of,
    engine_of,
    pod_of,
)


@dataclass(frozen=True)
class Readers:
    """What is read live, and remembered for a while."""

    tails: LogTails
    config_maps: ConfigMaps


async def see_engine(
    engine: Engine,
    store: Store,
    cluster: Cluster,
    readers: Readers,
    config: Config,
    now: datetime,
) -> EngineSeen:
    """Everything that `plan_engine` wants to know."""
    namespace = engine.meta.namespace
    place = _store(engine, store, config)
    source = _claim(store, namespace, engine.spec.model.claim_name)
    prompts = await readers.config_maps.digests(namespace, engine.spec.config_maps)
    pool = see_pool(engine, store)
    order = Order(engine, config, place, source, prompts, pool) if place else None
    return EngineSeen(
        store=place,
        source=source,
        prompts=prompts,
        pool=pool,
        work=await see_work(engine, order, store, cluster, readers.tails, now),
        uses=_uses(engine, place, store),
    )


def _store(engine: Engine, store: Store, config: Config) -> stores.Store | None:
    """The store of the engine's spec, else the operator's own; None for a claim that is absent."""
    place = stores.chosen(engine.spec.store, engine.meta.namespace, config)
    if place.s3 is not None:
        return stores.Bucket(place.s3)
    return _claim(store, engine.meta.namespace, place.claim_name)


def _uses(engine: Engine, place: stores.Store | None, store: Store) -> Uses:
    """Looked up only where retention may have something to say; one version may join in this pass."""
    versions = engine.status.versions
    retired = any(version.phase is Phase.RETIRED for version in versions)
    if place is None or not (retired or len(versions) >= engine.spec.retention):
        return Uses()
    return see_uses(engine, store, place)


def _claim(store: Store, namespace: str, name: str | None) -> Claim | None:
    raw = store.get(CLAIM, namespace, name) if name else None
    if raw is None or raw["metadata"].get("deletionTimestamp"):
        return None
    return claim_of(raw)


async def see_deployment(
    owner: Deployment,
    store: Store,
    cluster: Cluster,
    config: Config,
    answers: Mapping[str, Answer],
    gpus: Mapping[PodName, Sequence[float]],
    watched: timedelta,
    looks: Sequence[Look] = (),
) -> DeploymentSeen:
    """Everything that `plan_deployment` wants to know."""
    namespace, name = owner.meta.namespace, owner.meta.name
    target = target_of(owner, _engine(store, namespace, owner.spec.engine_ref.name), config)
    pods = tuple(pod_of(raw) for raw in store.refer(POD, namespace, f"deployment={name}"))
    workloads = tuple(await _workloads(owner, target, store, cluster))
    owner = settled(owner, Fleet.of(owner.meta.uid, workloads))
    ready = [PodName(namespace, pod.meta.name) for pod in pods if pod.ready]
    return DeploymentSeen(
        target=target,
        has_groups=store.serves(LEADER_WORKER_SET),
        workloads=workloads,
        beside=await _beside(owner, target, store, cluster),
        pods=pods,
        gpu_percent=average(gpus, ready),
        looks=looks,
        looks_every=config.autoscaling_seconds,
        answers=answers,
        watched=watched,
        proves_service=config.probe_services,
    )


async def _workloads(
    owner: Deployment, target: Revision | Situation, store: Store, cluster: Cluster
) -> list[Raw]:
    """Those of every revision, and one that bears the name of the target's."""
    namespace, label = owner.meta.namespace, f"deployment={owner.meta.name}"
    found = [raw for each in ALL for raw in store.refer(each.kind, namespace, label)]
    if isinstance(target, Revision) and all(r["metadata"]["name"] != target.name for r in found):
        namesake = await _child(kind_for(target).kind, namespace, target.name, store, cluster)
        found += [namesake] if namesake is not None else []
    return found


async def _beside(
    owner: Deployment, target: Revision | Situation, store: Store, cluster: Cluster
) -> Beside:
    """What is not wanted, or not yet, is ours or none of our business: the view tells."""
    namespace, asked = owner.meta.namespace, beside.wanted(owner)
    served = store.serves(INFERENCE_POOL)
    found: dict[beside.Place, Raw] = {}
    for kind, name in beside.places(owner):
        raw = store.get(kind, namespace, name)
        is_next = (kind, name) in asked and isinstance(target, Revision)
        if raw is None and is_next and (served or kind is not INFERENCE_POOL):
            raw = await cluster.get(kind, namespace, name)
        if raw is not None:
            found[kind, name] = raw
    return Beside(found, has_pools=served)


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
