"""Whom a changed object concerns."""

from collections.abc import Iterable, Iterator

from pitcrew_operator.config import Config
from pitcrew_operator.kinds import CLAIM, DEPLOYMENT, ENGINE, JOB, NODE, Kind, Raw, at
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL, WORKER_LABEL
from pitcrew_operator.reconcile import Key
from pitcrew_operator.store import Store
from pitcrew_operator.turns import first_in_line
from pitcrew_operator.views import JOB_NAME_LABEL


def concerned(kind: Kind, raw: Raw, store: Store, config: Config) -> Iterator[Key]:
    """The resources to reconcile after a change of this object."""
    metadata = raw["metadata"]
    namespace, name = metadata.get("namespace") or "", metadata["name"]
    if kind in (ENGINE, DEPLOYMENT):
        yield Key(kind, namespace, name)
    if kind is ENGINE:
        yield from _keys(DEPLOYMENT, store.refer(DEPLOYMENT, namespace, f"engine={name}"))
    if kind is CLAIM:
        yield from _keys(ENGINE, store.refer(ENGINE, namespace, f"claim={name}"))
        if name == config.store_claim:
            yield from _keys(ENGINE, store.refer(ENGINE, namespace, "claim=None"))
    if kind is NODE:
        yield from _keys(ENGINE, (raw for raw in store.all(ENGINE) if _compiles_plans(raw)))
    if kind is JOB:
        yield from _owners(raw)
        for waiting in first_in_line(store, config.max_parallel_builds):
            yield from _owners(waiting)
    labels = metadata.get("labels") or {}
    if JOB_NAME_LABEL in labels:
        job = store.get(JOB, namespace, labels[JOB_NAME_LABEL])
        yield from _owners(job) if job is not None else ()
    for label in (DEPLOYMENT_LABEL, WORKER_LABEL):
        if label in labels:
            yield Key(DEPLOYMENT, namespace, labels[label])


def _keys(kind: Kind, found: Iterable[Raw]) -> Iterator[Key]:
    for raw in found:
        yield Key(kind, raw["metadata"]["namespace"], raw["metadata"]["name"])


def _owners(job: Raw) -> Iterator[Key]:
    metadata = job["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if owner["kind"] == ENGINE.kind:
            yield Key(ENGINE, metadata["namespace"], owner["name"])


def _compiles_plans(engine: Raw) -> bool:
    return str(at(engine, "spec", "target")).startswith("tensorrt")
