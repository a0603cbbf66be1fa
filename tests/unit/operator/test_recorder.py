"""Events that wait for time."""

import asyncio

from pitcrew_operator.errors import Unavailable
from pitcrew_operator.kinds import Raw
from pitcrew_operator.patience import LONGEST_SECONDS
from pitcrew_operator.recorder import HELD, Recorder
from tests.property.operator.simulation import SimulatedCluster


class Desk:
    """A recorder, its clock, and whether there is much to do."""

    def __init__(self, cluster: SimulatedCluster | None = None) -> None:
        self.cluster = cluster or SimulatedCluster()
        self.now, self.is_busy = 0.0, False
        self.recorder = Recorder(self.cluster, lambda: self.is_busy, lambda: self.now)

    async def tell(self, *reasons: str) -> None:
        for reason in reasons:
            await self.recorder.record({"reason": reason})

    @property
    def told(self) -> list[str]:
        return [event["reason"] for event in self.cluster.events]


async def test_events_are_written_in_their_order() -> None:
    desk = Desk()
    await desk.tell("Building", "Ready")
    await desk.recorder.write()
    assert desk.told == ["Building", "Ready"]


async def test_events_wait_while_there_is_much_to_do_and_for_a_minute_at_most() -> None:
    desk = Desk()
    desk.is_busy = True
    await desk.tell("Building")
    desk.now = LONGEST_SECONDS - 1
    await desk.tell("Ready")
    await desk.recorder.write()
    assert desk.told == []
    desk.now = LONGEST_SECONDS
    await desk.recorder.write()
    assert desk.told == ["Building"]
    desk.is_busy = False
    await desk.recorder.write()
    assert desk.told == ["Building", "Ready"]


async def test_what_waits_at_the_end_is_written_without_waiting_for_time() -> None:
    desk = Desk()
    desk.is_busy = True
    await desk.tell("Building", "Ready")
    await desk.recorder.end(5.0)
    assert desk.told == ["Building", "Ready"]


async def test_an_end_takes_no_longer_than_it_may() -> None:
    class Silent(SimulatedCluster):
        async def create_event(self, event: Raw) -> None:
            await asyncio.Event().wait()

    desk = Desk(Silent())
    await desk.tell("Building", "Ready")
    await desk.recorder.end(0.01)
    await desk.recorder.write()
    assert desk.told == []


async def test_an_event_that_cannot_be_written_keeps_no_other_waiting() -> None:
    class Away(SimulatedCluster):
        async def create_event(self, event: Raw) -> None:
            if event["reason"] == "Building":
                raise Unavailable("503: going down")
            await super().create_event(event)

    desk = Desk(Away())
    await desk.tell("Building", "Ready")
    await desk.recorder.write()
    assert desk.told == ["Ready"]


async def test_of_very_many_events_the_oldest_are_dropped() -> None:
    desk = Desk()
    await desk.tell(*(str(number) for number in range(HELD + 1)))
    await desk.recorder.write()
    assert desk.told[0] == "1"
    assert len(desk.told) == HELD


async def test_what_comes_later_is_written_without_asking_again() -> None:
    desk = Desk()
    running = asyncio.create_task(desk.recorder.run())
    for reason in ("Building", "Ready"):
        await desk.tell(reason)
        for _ in range(10):  # turns of the loop: the cluster is in memory and keeps nobody waiting
            await asyncio.sleep(0)
        assert desk.told[-1] == reason
    running.cancel()
