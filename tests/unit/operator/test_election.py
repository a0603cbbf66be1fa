"""Two candidates and one lease, on a clock that jumps: never two writers, and never none for long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pitcrew_operator.election import Elector
from pitcrew_operator.errors import Conflict, Gone, NotLeader, Unavailable
from pitcrew_operator.kinds import Raw
from pitcrew_operator.lease import Timing, first, taken

pytestmark = pytest.mark.looptime

TIMING = Timing(15)
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """One Lease, with versions."""

    def __init__(self) -> None:
        self.raw: Raw | None = None
        self.versions = 0

    def put(self, raw: Raw) -> Raw:
        self.versions += 1
        metadata = {**raw["metadata"], "resourceVersion": str(self.versions)}
        self.raw = {**raw, "metadata": metadata}
        return self.raw

    @property
    def spec(self) -> dict[str, Any]:
        assert self.raw is not None
        return dict(self.raw["spec"])


class Line:
    """One candidate's way to the server; it can be cut, or hang."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cut = self.hangs = False

    async def _pass(self, seconds: float) -> None:
        if self.hangs:
            await asyncio.sleep(seconds)
            raise Unavailable("no answer")
        if self.cut:
            raise Unavailable("refused")

    async def read(self, seconds: float) -> Raw | None:
        await self._pass(seconds)
        return self.server.raw

    async def create(self, identity: str, seconds: float) -> Raw:
        await self._pass(seconds)
        if self.server.raw is not None:
            raise Conflict("409: there is one")
        return self.server.put(first("system", "pitcrew", identity, TIMING, NOON))

    async def replace(self, raw: Raw, seconds: float) -> Raw:
        await self._pass(seconds)
        if self.server.raw is None:
            raise Gone(404, "no lease")
        if raw["metadata"]["resourceVersion"] != self.server.raw["metadata"]["resourceVersion"]:
            raise Conflict("409: changed")
        return self.server.put(raw)


class Candidate:
    """An operator that only wants to lead."""

    def __init__(
        self, server: Server, name: str, ending: float = 0.0, clock_error: int = 0
    ) -> None:
        self.line, self.name, self.leads, self._ending = Line(server), name, False, ending
        wrong = timedelta(seconds=clock_error)
        self.elector = Elector(self.line, name, TIMING, lambda: NOON + wrong, now)
        self.began: list[float] = []

    def begin(self) -> None:
        self.elector.permitted()
        self.leads = True
        self.began.append(now())

    async def end(self) -> None:
        await asyncio.sleep(self._ending)
        self.leads = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Candidate"]:
        task = asyncio.create_task(self.elector.lead(self.begin, self.end))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def may_write(self) -> bool:
        try:
            return self.elector.permitted() > 0
        except NotLeader:
            return False


async def watched(seconds: float, *candidates: Candidate) -> None:
    """Let time pass, looking at every tenth of a second: at most one may write."""
    for _ in range(round(seconds * 10)):
        await asyncio.sleep(0.1)
        assert sum(each.may_write() for each in candidates) <= 1


async def test_one_leads_and_the_other_waits() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with a.running(), b.running():
        await watched(120, a, b)
        assert (a.leads, b.leads) == (True, False)
        assert server.spec["holderIdentity"] == "a"
        assert server.spec["leaseTransitions"] == 0


async def test_other_one_takes_over_from_the_dead_after_the_duration_and_not_before() -> None:
    server = Server()
    server.put(first("system", "pitcrew", "dead", TIMING, NOON))
    async with Candidate(server, "b").running() as b:
        await watched(30, b)
        assert TIMING.duration <= b.began[0] <= TIMING.duration + TIMING.retry
        assert server.spec["holderIdentity"] == "b"
        assert server.spec["leaseTransitions"] == 1


async def test_clean_end_lets_the_other_one_in_at_its_next_look_and_not_before_work_has_ended() -> (
    None
):
    server = Server()
    a, b = Candidate(server, "a", ending=3.0), Candidate(server, "b")
    task = asyncio.create_task(a.elector.lead(a.begin, a.end))
    async with b.running():
        await watched(10, a, b)
        task.cancel()
        stopped = now()
        await asyncio.gather(task, return_exceptions=True)
        assert not b.began
        await watched(2 * TIMING.retry, a, b)
        assert stopped + 3.0 <= b.began[0] <= stopped + 3.0 + TIMING.retry


@pytest.mark.parametrize("failure", ["cut", "hangs"])
async def test_holder_that_cannot_renew_stops_before_the_other_one_begins(failure: str) -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with a.running():
        await asyncio.sleep(0.1)
        async with b.running():
            await watched(20, a, b)
            setattr(a.line, failure, True)
            broke = now()
            while a.may_write():
                await watched(0.1, a, b)
            assert now() <= broke + TIMING.deadline + TIMING.retry
            assert not b.leads
            await watched(30, a, b)
            assert b.leads
            assert not a.leads
            setattr(a.line, failure, False)
            await watched(60, a, b)
            assert (a.leads, b.leads) == (False, True)


async def test_short_trouble_changes_nothing() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with a.running():
        await asyncio.sleep(0.1)
        async with b.running():
            for _ in range(5):
                a.line.cut = b.line.cut = True
                await watched(5, a, b)
                a.line.cut = b.line.cut = False
                await watched(5, a, b)
            assert a.began == [0.0]
            assert a.leads


async def test_both_go_on_when_the_server_comes_back_and_one_of_them_leads() -> None:
    server = Server()
    a, b = Candidate(server, "a"), Candidate(server, "b")
    async with a.running(), b.running():
        await watched(10, a, b)
        a.line.cut = b.line.cut = True
        await watched(60, a, b)
        assert not a.may_write()
        assert a.elector.problem == "refused"
        a.line.cut = b.line.cut = False
        await watched(30, a, b)
        assert a.leads != b.leads
        assert a.elector.problem is None


async def test_wrong_clocks_do_not_matter() -> None:
    server = Server()
    a, b = Candidate(server, "a", clock_error=-86400), Candidate(server, "b", clock_error=86400)
    async with a.running(), b.running():
        await watched(120, a, b)
        assert (a.leads, b.leads) == (True, False)


async def test_process_that_was_stopped_may_not_write_when_it_wakes() -> None:
    server, stopped = Server(), [0.0]
    a = Candidate(server, "a")
    a.elector = Elector(a.line, "a", TIMING, lambda: NOON, lambda: now() + stopped[0])
    async with a.running():
        await asyncio.sleep(1)
        assert a.may_write()
        stopped[0] = 20.0
        assert not a.may_write()


async def test_same_identity_goes_on_without_waiting() -> None:
    server = Server()
    server.put(first("system", "pitcrew", "a", TIMING, NOON))
    async with Candidate(server, "a").running() as again:
        await asyncio.sleep(0.1)
        assert again.leads
        assert server.spec["leaseTransitions"] == 0


async def test_lease_that_was_deleted_is_made_again() -> None:
    server = Server()
    async with Candidate(server, "a").running() as a:
        await asyncio.sleep(0.1)
        server.raw = None
        await watched(10, a)
        assert a.leads
        assert server.spec["holderIdentity"] == "a"


async def test_holder_yields_to_whoever_took_the_lease_from_it() -> None:
    server = Server()
    async with Candidate(server, "a").running() as a:
        await asyncio.sleep(0.1)
        assert server.raw is not None
        server.put(taken(server.raw, "b", TIMING, NOON))
        await watched(2 * TIMING.retry, a)
        assert not a.leads
        assert server.spec["holderIdentity"] == "b"


@pytest.mark.parametrize("field", ["strategy", "preferredHolder"])
def test_fields_that_are_not_ours_are_kept(field: str) -> None:
    raw = {"metadata": {}, "spec": {field: "theirs"}}
    assert taken(raw, "a", TIMING, NOON)["spec"][field] == "theirs"
