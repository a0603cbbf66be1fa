"""Whatever gets past admission ends in a named condition, and nobody else notices.

An older CRD, or none that is enforced, may let anything in; so nothing here is refused beforehand.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitcrew_builder.report import FailureReason
from pitcrew_operator import reasons
from pitcrew_operator.kinds import CLAIM, DEPLOYMENT, ENGINE, Kind
from pitcrew_operator.reconcile import Key
from tests.property.operator.mutations import Document, mutated
from tests.property.operator.world import TINY, VOLUME, World, claim
from tests.unit.operator.factories import NAMESPACE, deployment_raw, engine_raw

REASONS = {
    value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)
}
REASONS |= {reason.value for reason in FailureReason}

FULL_ENGINE: dict[str, Any] = {
    "precision": "fp32",
    "shapes": {"maxBatchSize": 4, "maxSequenceLength": 128},
    "rebuildPolicy": {"mode": "Auto", "pollSeconds": 60},
    "retention": 3,
    "quantization": {"weights": "int8"},
    "parallelism": {"tensor": 1},
    "build": {
        "nodeSelector": {"disk": "fast"},
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
}
FULL_DEPLOYMENT: dict[str, Any] = {
    "worldSize": 1,
    "servedModelName": "tiny",
    "service": {"port": 80, "type": "ClusterIP"},
    "runtime": {
        "kvMemory": "64Mi",
        "drainSeconds": 30,
        "resources": {"requests": {"cpu": "100m"}},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
}


@pytest.fixture(scope="module")
def world() -> World:
    """Everything there is well."""
    world = World(VOLUME, limit=0)
    world.cluster.create(CLAIM, claim("checkpoints"))
    for _ in range(8):
        world.work_on()
    return world


def settle(world: World, kind: Kind, document: Document) -> None:
    """The mutant comes, is reconciled as often as it likes, and goes."""
    key = Key(kind, NAMESPACE, document["metadata"]["name"])
    document["metadata"].pop("uid", None)
    world.cluster.create(kind, document)
    for _ in range(4):
        world.deliver(len(world.cluster.pending))
        world.reconcile(key)
    told = world.status(key).get("conditions") or ()
    health = [c for c in told if c["type"] != "UpToDate" and c["status"] == "True"]
    assert len(health) == 1, told
    assert health[0]["reason"] in REASONS
    assert health[0]["message"]
    world.cluster.remove(kind, key.name)
    world.deliver(len(world.cluster.pending))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(seed=st.integers(0, 1 << 32))
def test_every_mutated_engine_ends_in_a_named_condition(world: World, seed: int) -> None:
    base = engine_raw(FULL_ENGINE)
    settle(world, ENGINE, mutated(base, seed))
    assert world.condition(TINY, "Ready")[0] == "True"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(seed=st.integers(0, 1 << 32))
def test_every_mutated_deployment_ends_in_a_named_condition(world: World, seed: int) -> None:
    base = deployment_raw(FULL_DEPLOYMENT)
    settle(world, DEPLOYMENT, mutated(base, seed))
    assert world.condition(TINY, "Ready")[0] == "True"
