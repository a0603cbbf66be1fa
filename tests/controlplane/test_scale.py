"""The scale subresource before and after somebody has written it, as an autoscaler meets it."""

import pytest

from pitcrew_operator.kinds import DEPLOYMENT
from tests.controlplane.api import MERGE, Admin, Refused
from tests.unit.operator.factories import deployment_raw

APPLY = "application/apply-patch+yaml"


async def test_replicas_that_nobody_wrote_are_written_once_by_hand(
    plane: object, admin: Admin
) -> None:
    namespace = "scaled"
    await admin.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    manifest = deployment_raw() | {"metadata": {"name": "chat", "namespace": namespace}}
    del manifest["status"], manifest["spec"]["replicas"]
    place, scale = (DEPLOYMENT.path(namespace, "chat", part) for part in ("", "scale"))

    async def applied() -> dict[str, object]:
        found = await admin.call("PATCH", place, manifest, APPLY, fieldManager="flux", force="true")
        spec: dict[str, object] = found["spec"]
        return spec

    assert "replicas" not in await applied()
    with pytest.raises(Refused, match=r"\.spec\.replicas.* does not exist"):
        await admin.call("GET", scale)
    await admin.call("PATCH", scale, {"spec": {"replicas": 2}}, MERGE, fieldManager="kubectl")
    assert (await admin.call("GET", scale))["spec"]["replicas"] == 2
    assert (await applied())["replicas"] == 2, "a repository that states no number takes none back"
