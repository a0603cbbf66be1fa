"""Whether a cluster knows a kind, as its listings tell."""

import asyncio
from collections.abc import Sequence

from pitcrew_operator.cluster import Known, as_it_is
from pitcrew_operator.errors import ClusterError, Gone, Rejected, Unavailable
from pitcrew_operator.kinds import LEADER_WORKER_SET, WATCHED, Kind, Raw
from pitcrew_operator.latecomers import Latecomers
from pitcrew_operator.listing import Listings
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.store import Store
from tests.property.operator.simulation import SimulatedCluster


class Changing(SimulatedCluster):
    """Listings end as they are told to, one after the other."""

    def __init__(self, ends: Sequence[ClusterError | None]) -> None:
        super().__init__()
        self.ends = list(ends)

    async def list_all(
        self, kind: Kind, namespace: str | None, known: Known = as_it_is
    ) -> tuple[list[Raw], str]:
        end = self.ends.pop(0)
        if end is not None:
            raise end
        return await super().list_all(kind, namespace, known)


def looked(*ends: ClusterError | None) -> tuple[list[bool], int]:
    """What each look found, and how often that was news."""
    news: list[None] = []
    store, metrics = Store(lambda *_: None), Metrics()
    listings = Listings(Changing(ends), store, WATCHED, (), metrics)
    late = Latecomers(listings, store, 1.0, lambda: news.append(None))

    async def look() -> list[bool]:
        return [await late.look(LEADER_WORKER_SET) for _ in ends]

    found = asyncio.run(look())
    assert store.serves(LEADER_WORKER_SET) is found[-1]
    return found, len(news)


def test_a_kind_comes_and_goes() -> None:
    gone = Gone(404, "the server could not find the requested resource")
    assert looked(gone, None, None, gone) == ([False, True, True, False], 2)


def test_what_may_not_be_read_is_not_there() -> None:
    assert looked(Rejected(403, "forbidden"), None) == ([False, True], 1)


def test_a_server_that_does_not_answer_changes_nothing() -> None:
    away = Unavailable("503: restarting")
    assert looked(away, None, away) == ([False, True, True], 1)
