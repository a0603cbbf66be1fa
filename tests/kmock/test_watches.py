"""Watches that fall silent, grow too old or break: nothing is missed, and nobody has to restart."""

import pytest

from pitcrew_operator.kinds import DEPLOYMENT, ENGINE, NODE, SERVICE, WATCHED
from tests.kmock.apiserver import ApiServer
from tests.kmock.conftest import StartOperator
from tests.kmock.test_operator import Eventually, begin, end, going, reason, served
from tests.unit.operator.factories import resolved, succeeded

EVERYTHING = len((*WATCHED, NODE))


async def test_silent_watch_is_opened_anew(
    api: ApiServer, operator: StartOperator, eventually: Eventually
) -> None:
    async with operator(PITCREW_WATCH_SILENCE_SECONDS="2"):
        await eventually(lambda: api.streams >= EVERYTHING)
        begin(api)
        look = await eventually(lambda: going(api, "resolve"))
        api.stall_watches()
        end(api, look, resolved())
        await eventually(lambda: going(api, "build"))


@pytest.mark.parametrize("code", [410, 500], ids=["too old", "broken"])
async def test_what_was_deleted_while_a_watch_was_away_is_forgotten(
    api: ApiServer, operator: StartOperator, eventually: Eventually, code: int
) -> None:
    async with operator():
        begin(api)
        end(api, await eventually(lambda: going(api, "resolve")), resolved())
        end(api, await eventually(lambda: going(api, "build")), succeeded())
        await served(api, eventually)
        api.deaf = True
        api.cluster.remove(SERVICE, "chat")
        api.deaf = False
        api.break_watches(code)
        await eventually(lambda: (SERVICE, "chat") in api.cluster.objects)
        await eventually(lambda: reason(api, DEPLOYMENT, "chat") == "Serving")
        assert reason(api, ENGINE, "tiny") == "EngineReady"
