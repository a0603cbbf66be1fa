"""Watches that end, break or grow too old: where they go on, and what the view holds then."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pitcrew_operator.errors import ClusterError, Gone, Unavailable
from pitcrew_operator.kinds import JOB
from pitcrew_operator.listing import Listings
from pitcrew_operator.metrics import Metrics
from pitcrew_operator.store import Store
from pitcrew_operator.streams import Streams
from tests.property.operator.simulation import SimulatedCluster
from tests.unit.operator.factories import NAMESPACE, meta

Script = Sequence[bytes | ClusterError]


class FakeWire:
    """Each watch says what its script does; after the last one nothing comes any more."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.versions: list[str] = []
        self.done = asyncio.Event()

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], silence: float
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        assert query["labelSelector"] == JOB.selector
        self.versions.append(query["resourceVersion"])
        if not self.scripts:
            self.done.set()
            await asyncio.Event().wait()
        yield self._say(self.scripts.pop(0))

    async def _say(self, script: Script) -> AsyncIterator[list[bytes]]:
        for said in script:
            if isinstance(said, ClusterError):
                raise said
            yield [said]


def job(name: str, version: int, **status: object) -> dict[str, Any]:
    metadata = meta(name, resourceVersion=str(version))
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "status": status}


def told(change: str, document: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": change, "object": document}).encode()


BOOKMARK = told("BOOKMARK", {"metadata": {"resourceVersion": "1009"}})
TOO_OLD = told("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
CUT = Unavailable("GET: connection reset")


class Followed:
    """What the view holds after the scripts, and the versions that watches began from."""

    def __init__(self, *scripts: Script) -> None:
        self.cluster, self.metrics = SimulatedCluster(), Metrics()
        self.store = Store(lambda *_: None)
        self.listings = Listings(self.cluster, self.store, (JOB,), (), self.metrics)
        self.wire = FakeWire(*scripts)

    async def run(self) -> list[str]:
        await self.listings.list_kind(JOB)
        streams = Streams(self.wire, self.listings, self.metrics, 60.0)
        following = asyncio.create_task(streams.follow((JOB,)))
        await asyncio.wait_for(self.wire.done.wait(), 30)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return self.wire.versions

    @property
    def names(self) -> set[str]:
        return {raw["metadata"]["name"] for raw in self.store.all(JOB)}

    @property
    def relists(self) -> float:
        return self.metrics.registry.get_sample_value("pitcrew_operator_relists_total") or 0.0


async def test_changes_reach_the_view() -> None:
    gone = told("DELETED", job("a", 1003))
    followed = Followed([told("ADDED", job("a", 1001)), told("ADDED", job("b", 1002)), gone])
    await followed.run()
    assert followed.names == {"b"}


async def test_a_stream_that_ends_goes_on_where_it_was() -> None:
    followed = Followed([told("ADDED", job("a", 1001)), BOOKMARK], [])
    assert (await followed.run())[1:] == ["1009", "1009"]
    assert followed.relists == 0


async def test_a_stream_that_is_cut_goes_on_where_it_was() -> None:
    followed = Followed([told("ADDED", job("a", 1001)), CUT])
    assert (await followed.run())[1:] == ["1001"]
    assert followed.relists == 0


@pytest.mark.parametrize("break_", [[TOO_OLD], [CUT, CUT]], ids=["too old", "cut twice"])
async def test_what_was_deleted_meanwhile_is_forgotten(break_: list[Any]) -> None:
    scripts = [[each] for each in break_]
    scripts[0].insert(0, told("ADDED", job("a", 1)))
    followed = Followed(*scripts)
    followed.cluster.create(JOB, {"kind": "Job", "metadata": {"name": "c", "namespace": NAMESPACE}})
    versions = await followed.run()
    assert versions[-1] == followed.listings.version(JOB, None)
    assert followed.names == {"c"}
    assert followed.relists == 1


@pytest.mark.parametrize("line", [b"<html>502</html>", b"[]", b'{"type": "ADDED"}', b"7"])
async def test_words_of_a_proxy_are_no_end(line: bytes) -> None:
    followed = Followed([told("ADDED", job("a", 1001)), line], [told("ADDED", job("b", 1002))])
    await followed.run()
    assert followed.names >= {"a"}
    assert followed.metrics.registry.get_sample_value("pitcrew_operator_watch_failures_total") == 1


async def test_a_kind_that_goes_ends_its_watch() -> None:
    followed = Followed([told("ADDED", job("a", 1001))], [Gone(404, "no such kind")])
    streams = Streams(followed.wire, followed.listings, followed.metrics, 60.0)
    with pytest.raises(Gone):
        await asyncio.wait_for(streams.follow_while_known(JOB), 30)
