"""What the cluster holds for the builds of one engine: Jobs, their pods and logs, nodes, and others'
claims to the same engines.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain

from pitcrew_builder.report import Progress
from pitcrew_operator.api.version import Answer, Phase
from pitcrew_operator.cluster import Cluster
from pitcrew_operator.gpus import GpuNode, GpuPool, choose_pool, gpu_node
from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, JOB, NODE, POD, Raw, at
from pitcrew_operator.logtails import LogTails
from pitcrew_operator.manifests import store as stores
from pitcrew_operator.manifests.builder_job import BUILD, COLLECT
from pitcrew_operator.manifests.names import store_label
from pitcrew_operator.order import Order
from pitcrew_operator.plan.building import Turn
from pitcrew_operator.plan.course import Work
from pitcrew_operator.plan.looking import look
from pitcrew_operator.plan.retention import Uses
from pitcrew_operator.store import EVERYWHERE, Store
from pitcrew_operator.turns import ahead_of
from pitcrew_operator.views import JOB_NAME_LABEL, Engine, Job, Pod, job_of, pod_of


async def see_work(
    engine: Engine,
    order: Order | None,
    store: Store,
    cluster: Cluster,
    tails: LogTails,
    now: datetime,
) -> Work:
    """The Jobs that it owns and the one that it wants, with their pods and progress."""
    namespace, name = engine.meta.namespace, engine.meta.name
    found = [job_of(raw) for raw in store.refer(JOB, namespace, f"engine={name}")]
    jobs = [job for job in found if job.meta.is_owned_by(engine.meta.uid)]
    pods = await _pods(namespace, jobs, store, cluster)
    answer = _answer(order, jobs, pods, now) if order is not None else None
    wanted = _wanted(order, answer, jobs, store) if order and answer else None
    if wanted is not None:
        jobs.append(wanted)
        pods += await _pods(namespace, [wanted], store, cluster)
    return Work(
        jobs=tuple(jobs),
        pods=pods,
        progress=await _progress(jobs, pods, tails),
        turn=_turn(order, jobs, store),
        sought=order.job_name(answer) if order and answer else None,
    )


def _wanted(order: Order, answer: Answer, jobs: list[Job], store: Store) -> Job | None:
    """The build Job that other engines made. One that the watches have not told of yet comes into view
    when it is to be made, and is left as it is.
    """
    name = order.job_name(answer)
    if any(job.meta.name == name for job in jobs):
        return None
    raw = store.get(JOB, order.engine.meta.namespace, name)
    return job_of(raw) if raw is not None else None


def _answer(order: Order, jobs: list[Job], pods: tuple[Pod, ...], now: datetime) -> Answer | None:
    """The answer to what is asked now: the recorded one, or the one that this pass will record."""
    try:
        return look(order, jobs, pods, now).answer
    except ValueError:  # a layout that cannot be
        return None


async def _pods(namespace: str, jobs: list[Job], store: Store, cluster: Cluster) -> tuple[Pod, ...]:
    """The pods of the Jobs; live for a Job that ended unseen."""
    pods: list[Pod] = []
    for job in jobs:
        known = [pod_of(raw) for raw in store.refer(POD, namespace, f"job={job.meta.name}")]
        if job.finished_at and not any(pod.termination for pod in known):
            selector = f"{JOB_NAME_LABEL}={job.meta.name}"
            known = [pod_of(raw) for raw in await cluster.select(POD, namespace, selector)]
        pods += known
    return tuple(pods)


async def _progress(jobs: list[Job], pods: tuple[Pod, ...], tails: LogTails) -> dict[str, Progress]:
    """Newest progress of each build that has a running pod."""
    going = {
        job.meta.name
        for job in jobs
        if job.component == BUILD and not (job.finished_at or job.meta.deleting)
    }
    found: dict[str, Progress] = {}
    for pod in pods:
        if pod.running and pod.job_name in going:
            progress = await tails.progress(pod)
            if progress is not None:
                found[pod.job_name] = progress
    return found


def _turn(order: Order | None, jobs: list[Job], store: Store) -> Turn:
    if order is None:
        return Turn()
    queued = next((job for job in jobs if job.component == BUILD and job.suspended), None)
    removals = _of_store(order.engine.meta.namespace, order.store, COLLECT, store)
    return Turn(
        ahead=ahead_of(store, queued) if queued else 0,
        limit=order.config.max_parallel_builds,
        collecting=next((job.meta.name for job in removals if not job.ended), None),
    )


def _of_store(namespace: str, place: stores.Store, component: str, store: Store) -> Iterator[Job]:
    """The Jobs of that kind that work on one engine store: of every namespace where it is a bucket."""
    where = EVERYWHERE if isinstance(place, stores.Bucket) else namespace
    return map(job_of, store.refer(JOB, where, f"{component}={store_label(place.name)}"))


def see_pool(engine: Engine, store: Store) -> GpuPool | None:
    """The GPUs that a plan is for; as they were, while no node has any."""
    if engine.spec.tensorrt is None:
        return None
    capability = engine.spec.tensorrt.compute_capability.value
    recorded = engine.status.resolution.pool if engine.status.resolution else None
    remembered = GpuPool.of(recorded) if recorded else None
    nodes = (node for raw in store.all(NODE) if (node := _node(raw)))
    chosen = choose_pool(nodes, capability, engine.spec.build.node_selector, remembered)
    if chosen is None and remembered is not None and remembered.capability == capability:
        return remembered
    return chosen


def _node(raw: Raw) -> GpuNode | None:
    labels = raw["metadata"].get("labels") or {}
    return gpu_node(labels, schedulable=not (raw.get("spec") or {}).get("unschedulable"))


def see_uses(engine: Engine, store: Store, place: stores.Store) -> Uses:
    """Who else needs engines of the same store."""
    namespace, name = engine.meta.namespace, engine.meta.name
    ids = [version.id for version in engine.status.versions if version.id]
    deployments = [r for r in store.all(DEPLOYMENT) if r["metadata"]["namespace"] == namespace]
    named = _named(deployments, name)
    # A bucket may be that of several namespaces.
    everywhere = isinstance(place, stores.Bucket)
    others = [
        raw
        for raw in store.all(ENGINE)
        if (everywhere or raw["metadata"]["namespace"] == namespace)
        and raw["metadata"].get("uid") != engine.meta.uid
    ]
    before = [raw for raw in others if raw["metadata"].get("uid", "") < engine.meta.uid]
    after = [raw for raw in others if raw["metadata"].get("uid", "") > engine.meta.uid]
    return Uses(
        deployments=frozenset(id_ for id_ in ids if any(id_.startswith(each) for each in named)),
        engines=frozenset(chain(_flat(_ids, others), _flat(_retired, after))),
        unforgotten=frozenset(_flat(_retired, before)),
        builds=tuple(_of_store(namespace, place, BUILD, store)),
    )


def _named(deployments: list[Raw], engine: str) -> set[str]:
    """Ids that deployments serve, and ids or their first digits that they ask this engine for. One that
    asks another LLMEngine by now may still serve this one's, or have to go back to it.
    """
    found = set[object]()
    for raw in deployments:
        found.add(at(raw, "status", "engine", "id"))
        found.add(at(raw, "status", "rollout", "engineId"))
        if at(raw, "spec", "engineRef", "name") == engine:
            found.add(at(raw, "spec", "engineRef", "version"))
    return {each for each in found if isinstance(each, str) and each}


def _flat(read: Callable[[Raw], Iterator[str]], engines: list[Raw]) -> Iterator[str]:
    return chain.from_iterable(map(read, engines))


def _ids(raw: Raw) -> Iterator[str]:
    """Ids of the engines that an LLMEngine has or is about to have."""
    yield from (id_ for id_, phase in _versions(raw) if phase != Phase.RETIRED)
    wanted = at(raw, "status", "resolution", "answer", "engineId")
    if wanted:
        yield wanted


def _retired(raw: Raw) -> Iterator[str]:
    """Ids of the engines that an LLMEngine has let go and not forgotten."""
    yield from (id_ for id_, phase in _versions(raw) if phase == Phase.RETIRED)


def _versions(raw: Raw) -> Iterator[tuple[str, str]]:
    """Id and phase of each version whose id is known."""
    for version in at(raw, "status", "versions") or ():
        if version.get("id"):
            yield version["id"], version.get("phase") or ""
