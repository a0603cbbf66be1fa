"""What stands beside the pods of an LLMDeployment: Services, disruption budget, inference pool."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pitcrew_operator import reasons
from pitcrew_operator.kinds import DISRUPTION_BUDGET, INFERENCE_POOL, SERVICE, Kind, Raw, kind_of
from pitcrew_operator.manifests.disruption import disruption_budget
from pitcrew_operator.manifests.inference_pool import pool_manifest
from pitcrew_operator.manifests.service import (
    headless_manifest,
    headless_name,
    service_manifest,
)
from pitcrew_operator.plan.actions import Action, Apply, Delete
from pitcrew_operator.plan.conditions import Situation, stalled
from pitcrew_operator.plan.match import is_applied
from pitcrew_operator.views import Deployment, meta_of

Place = tuple[Kind, str]
"""Kind and name: where an object of this namespace is or would be."""


@dataclass(frozen=True)
class Beside:
    """What the cluster holds in these places."""

    objects: Mapping[Place, Raw] = field(default_factory=dict)
    has_pools: bool = False
    """Whether the cluster knows InferencePools."""


def places(owner: Deployment) -> tuple[Place, ...]:
    """Every place that an object of ours may be in, wanted today or not."""
    name = owner.meta.name
    return (
        (SERVICE, name),
        (SERVICE, headless_name(owner)),
        (DISRUPTION_BUDGET, name),
        (INFERENCE_POOL, name),
    )


def wanted(owner: Deployment, pods_per_replica: int = 1) -> dict[Place, Raw]:
    """The manifests of today, by their places."""
    return {
        (kind_of(manifest), manifest["metadata"]["name"]): manifest
        for manifest in _manifests(owner, pods_per_replica)
    }


def _manifests(owner: Deployment, pods_per_replica: int) -> Iterator[Raw]:
    yield service_manifest(owner)
    if owner.spec.service.headless:
        yield headless_manifest(owner)
    budget = disruption_budget(owner, pods_per_replica)
    if budget is not None:
        yield budget
    if owner.spec.inference_pool is not None:
        yield pool_manifest(owner, owner.spec.inference_pool)


def changes(owner: Deployment, seen: Beside, pods_per_replica: int = 1) -> tuple[Action, ...]:
    """What is missing or other than wanted, and what of ours is wanted no longer."""
    asked = wanted(owner, pods_per_replica)
    missing = (
        Apply(manifest)
        for place, manifest in asked.items()
        if _is_known(place, seen) and not is_applied(manifest, seen.objects.get(place))
    )
    return (*missing, *_leftovers(owner, seen, asked))


def in_place(owner: Deployment, seen: Beside) -> tuple[Raw, ...]:
    """What is found where something of ours is wanted, whosever it is."""
    return tuple(seen.objects[place] for place in wanted(owner) if place in seen.objects)


def _leftovers(owner: Deployment, seen: Beside, asked: Mapping[Place, Raw]) -> Iterator[Delete]:
    for (kind, name), raw in seen.objects.items():
        meta = meta_of(raw)
        ours = meta.controller_uid == owner.meta.uid and not meta.deleting
        if ours and (kind, name) not in asked:
            yield Delete(kind, meta.namespace, name, meta.uid)


def unmet(owner: Deployment, seen: Beside) -> Situation | None:
    """What was asked for and cannot be had in this cluster; the replicas serve all the same."""
    if owner.spec.inference_pool is None or seen.has_pools:
        return None
    return stalled(reasons.INFERENCE_POOL_MISSING, _NO_POOLS)


def _is_known(place: Place, seen: Beside) -> bool:
    return place[0] is not INFERENCE_POOL or seen.has_pools


_NO_POOLS: Final = (
    "the replicas serve, but spec.inferencePool asks for an InferencePool and the cluster does not "
    f"know {INFERENCE_POOL.api_version}; install the CRDs of the Gateway API Inference Extension or "
    "remove spec.inferencePool"
)
