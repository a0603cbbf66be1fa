"""What stands beside the pods: made when wanted, removed when not, never taken from anybody."""

from typing import Any

import pytest

from pitcrew_operator import reasons
from pitcrew_operator.kinds import DISRUPTION_BUDGET, INFERENCE_POOL, SERVICE, Raw
from pitcrew_operator.manifests.disruption import disruption_budget
from pitcrew_operator.plan import beside
from pitcrew_operator.plan.actions import Apply, Delete
from pitcrew_operator.plan.beside import Beside
from pitcrew_operator.views import Deployment, InvalidResource
from tests.unit.operator.factories import deployment

POOL = {"inferencePool": {"endpointPickerRef": {"name": "picker"}}}
ALL = POOL | {"service": {"headless": True}, "replicas": 3}


def held(owner: Deployment) -> Beside:
    """Everything as the server holds it."""
    objects = {
        place: {**manifest, "metadata": {**manifest["metadata"], "uid": f"uid-{place[1]}"}}
        for place, manifest in beside.wanted(owner).items()
    }
    return Beside(objects, has_pools=True)


def kinds(changes: tuple[object, ...]) -> list[str]:
    return [c.manifest["kind"] if isinstance(c, Apply) else type(c).__name__ for c in changes]


def test_everything_wanted_is_made_once() -> None:
    owner = deployment(ALL)
    made = beside.changes(owner, Beside(has_pools=True))
    assert kinds(made) == ["Service", "Service", "PodDisruptionBudget", "InferencePool"]
    assert beside.changes(owner, held(owner)) == ()


def test_what_is_wanted_no_longer_is_removed() -> None:
    plain = deployment({"replicas": 1})
    gone = beside.changes(plain, held(deployment(ALL)))
    assert {(a.kind, a.name) for a in gone if isinstance(a, Delete)} == {
        (SERVICE, "chat-headless"),
        (DISRUPTION_BUDGET, "chat"),
        (INFERENCE_POOL, "chat"),
    }
    assert len(gone) == 3


def test_what_belongs_to_others_is_not_removed() -> None:
    metadata = {"name": "chat", "namespace": "models", "uid": "x"}
    foreign: Raw = {"kind": "PodDisruptionBudget", "metadata": metadata}
    found = {(DISRUPTION_BUDGET, "chat"): foreign}
    owner = deployment({"replicas": 1})
    assert kinds(beside.changes(owner, Beside(found))) == ["Service"]
    assert beside.in_place(owner, Beside(found)) == ()
    assert beside.in_place(deployment({"replicas": 2}), Beside(found)) == (foreign,)


def test_a_cluster_without_pools_serves_and_is_told_what_lacks() -> None:
    owner = deployment(POOL)
    assert "InferencePool" not in kinds(beside.changes(owner, Beside()))
    lacking = beside.unmet(owner, Beside())
    assert lacking is not None
    assert lacking.reason == reasons.INFERENCE_POOL_MISSING
    assert "install the CRDs" in lacking.message
    assert "remove spec.inferencePool" in lacking.message
    assert beside.unmet(owner, Beside(has_pools=True)) is None
    assert beside.unmet(deployment(), Beside()) is None


BUDGETS: list[tuple[dict[str, Any], int, int | None]] = [
    ({"replicas": 1}, 1, None),
    ({"replicas": None}, 1, None),
    ({"replicas": 0}, 1, None),
    ({"replicas": 2}, 1, 1),
    ({"replicas": 5}, 1, 4),
    ({"replicas": 5, "podDisruptionBudget": {"maxUnavailable": 2}}, 1, 3),
    ({"replicas": 5, "podDisruptionBudget": {"maxUnavailable": "25%"}}, 1, 3),
    ({"replicas": 5, "podDisruptionBudget": {"maxUnavailable": "100%"}}, 1, None),
    ({"replicas": 1, "podDisruptionBudget": {"maxUnavailable": 0}}, 1, 1),
    ({"replicas": 3}, 4, 11),
]


@pytest.mark.parametrize(("spec", "pods", "least"), BUDGETS)
def test_budgets_count_the_pods_that_stay(
    spec: dict[str, Any], pods: int, least: int | None
) -> None:
    found = disruption_budget(deployment(spec), pods)
    assert (found["spec"]["minAvailable"] if found else None) == least


@pytest.mark.parametrize("share", [-1, "-1", "half", "1.5", "%", ""])
def test_a_budget_that_is_no_share_is_refused(share: object) -> None:
    with pytest.raises(InvalidResource, match="maxUnavailable"):
        deployment({"podDisruptionBudget": {"maxUnavailable": share}})
