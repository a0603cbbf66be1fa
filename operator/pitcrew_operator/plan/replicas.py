"""The workloads of an LLMDeployment's revisions: what they add up to, and how they are changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pitcrew_operator.kinds import Raw, kind_of
from pitcrew_operator.manifests.names import REVISION_LABEL
from pitcrew_operator.manifests.revision import Revision
from pitcrew_operator.manifests.workload import kind_for, read
from pitcrew_operator.plan.actions import Action, Apply, Delete, Patch
from pitcrew_operator.plan.match import is_applied
from pitcrew_operator.plan.rollout.step import Count
from pitcrew_operator.views import Workload, meta_of


@dataclass(frozen=True)
class Fleet:
    """The workloads that belong to one LLMDeployment, by the hash of their revision."""

    raws: Mapping[str, Raw]
    workloads: Mapping[str, Workload]

    @classmethod
    def of(cls, owner_uid: str, raws: Iterable[Raw]) -> "Fleet":
        """Those that the owner controls."""
        own = {
            hash_: raw
            for raw in raws
            if (meta := meta_of(raw)).controller_uid == owner_uid
            and (hash_ := meta.labels.get(REVISION_LABEL))
        }
        return cls(own, {hash_: read(raw) for hash_, raw in own.items()})

    @property
    def counts(self) -> dict[str, Count]:
        """What the planner sees of each. One that is being deleted keeps nothing."""
        return {
            hash_: Count(
                wanted=0 if workload.meta.deleting else workload.wanted,
                present=workload.replicas,
                available=min(workload.available, workload.ready),
                settled=workload.is_settled or workload.meta.deleting,
                drops_idle_first=workload.drops_idle_first,
            )
            for hash_, workload in self.workloads.items()
        }

    @property
    def present(self) -> int:
        """Replicas that exist."""
        return sum(workload.replicas for workload in self.workloads.values())

    @property
    def ready(self) -> int:
        """Replicas that are ready, whatever their revision."""
        return sum(workload.ready for workload in self.workloads.values())

    def of_revision(self, hash_: str) -> Workload | None:
        """The workload of one revision."""
        return self.workloads.get(hash_)


def change(
    fleet: Fleet, target: Revision, decided: Mapping[str, int], keep: str | None = None
) -> list[Action]:
    """What brings every workload to the decided number of replicas, and the target's to its manifest.

    The workload of the revision `keep` stays even where it is empty, to go back to.
    """
    found, count = fleet.raws.get(target.hash), decided.get(target.hash, 0)
    actions = _change_target(found, target, count) if found or count or not keep else []
    for hash_, workload in fleet.workloads.items():
        if hash_ != target.hash and not workload.meta.deleting:
            count, spared = decided.get(hash_, 0), hash_ == keep
            actions += _change_other(fleet.raws[hash_], workload, count, spared=spared)
    return actions


def rescale(fleet: Fleet, decided: Mapping[str, int]) -> list[Action]:
    """The decided numbers alone, where nobody knows what the target is."""
    return [
        action
        for hash_, workload in fleet.workloads.items()
        if not workload.meta.deleting
        for action in _scale(fleet.raws[hash_], workload, decided.get(hash_, 0))
    ]


def _change_target(found: Raw | None, target: Revision, replicas: int) -> list[Action]:
    kind = kind_for(target)
    if found is None:
        return [Apply(kind.manifest(target, replicas))]
    workload = kind.read(found)
    if not is_applied(kind.manifest(target, workload.wanted), found):
        return [Apply(kind.manifest(target, replicas))]
    return _scale(found, workload, replicas)


def _change_other(found: Raw, workload: Workload, replicas: int, *, spared: bool) -> list[Action]:
    """What shaped its pods is not known any more: only their number is changed."""
    if replicas == 0 and workload.is_empty and not spared:
        return [_delete(found, workload)]
    return _scale(found, workload, replicas)


def _scale(found: Raw, workload: Workload, replicas: int) -> list[Action]:
    if workload.wanted == replicas:
        return []
    fields: dict[str, Any] = {"spec": {"replicas": replicas}}
    return [Patch(kind_of(found), workload.meta, fields)]


def _delete(found: Raw, workload: Workload) -> Delete:
    meta = workload.meta
    return Delete(kind_of(found), meta.namespace, meta.name, meta.uid)
