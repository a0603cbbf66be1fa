"""Whom a changed object concerns."""

from collections.abc import Iterator

from pitcrew_operator.config import Config
from pitcrew_operator.kinds import CLAIM, DEPLOYMENT, ENGINE, Kind, Raw
from pitcrew_operator.manifests.names import DEPLOYMENT_LABEL, ENGINE_LABEL
from pitcrew_operator.reconcile import Key
from pitcrew_operator.store import Store


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
    labels = metadata.get("labels") or {}
    for owner, label in ((ENGINE, ENGINE_LABEL), (DEPLOYMENT, DEPLOYMENT_LABEL)):
        if label in labels:
            yield Key(owner, namespace, labels[label])


def _keys(kind: Kind, found: list[Raw]) -> Iterator[Key]:
    for raw in found:
        yield Key(kind, raw["metadata"]["namespace"], raw["metadata"]["name"])
