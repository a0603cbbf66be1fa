"""Kinds that the cluster learns while the operator runs."""

from pitcrew_operator import reasons
from pitcrew_operator.kinds import DEPLOYMENT, LEADER_WORKER_SET
from tests.kmock.apiserver import ApiServer
from tests.kmock.conftest import StartOperator
from tests.kmock.test_operator import Eventually, begin, begun, end, reason
from tests.property.operator.simulation import Object
from tests.unit.operator.factories import deployment_raw, succeeded


def groups(api: ApiServer) -> list[Object]:
    return [o for (kind, _), o in api.cluster.objects.items() if kind is LEADER_WORKER_SET]


async def test_a_kind_that_comes_late_is_used_and_watched(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    begin(api)
    spec = deployment_raw({"ranksPerPod": 2})["spec"]
    api.cluster.update(DEPLOYMENT, "chat", spec=spec)
    async with operator(PITCREW_LATECOMER_SECONDS="0.2"):
        end(api, await begun(api, eventually), succeeded(worldSize=4))
        lacking = reasons.LEADER_WORKER_SET_MISSING
        await eventually(lambda: reason(api, DEPLOYMENT, "chat") == lacking)
        assert groups(api) == []
        api.learn(LEADER_WORKER_SET)
        (made,) = await eventually(lambda: groups(api))
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 2)
        seen = {"observedGeneration": made["metadata"]["generation"]}
        api.cluster.update(LEADER_WORKER_SET, made["metadata"]["name"], status=counts | seen)
        await eventually(lambda: reason(api, DEPLOYMENT, "chat") == reasons.SERVING)
