"""What resources say of themselves before any operator has seen them."""

from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, Kind
from tests.controlplane.api import Admin
from tests.unit.operator.factories import deployment_raw, engine_raw


async def test_a_resource_that_nobody_looked_at_is_not_current(plane: object, admin: Admin) -> None:
    """By kstatus, which takes whoever says nothing at all for current."""
    namespace = "unseen"
    await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})

    async def created(kind: Kind, document: dict[str, object]) -> None:
        fresh = document | {"metadata": {"name": "a"}}
        fresh.pop("status", None)
        made = await admin.create(kind, namespace, fresh)
        found = await admin.get(kind, namespace, "a")
        assert found is not None
        assert found["status"]["observedGeneration"] < made["metadata"]["generation"]

    await created(ENGINE, engine_raw())
    await created(DEPLOYMENT, deployment_raw())
