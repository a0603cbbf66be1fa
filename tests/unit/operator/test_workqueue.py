"""The queue's promises, on a clock that jumps instead of waiting."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from pitcrew_operator.workqueue import RetryLater, WorkQueue

pytestmark = pytest.mark.looptime

Work = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def running(work: Work, workers: int = 4) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(work)
    queue.start(workers)
    try:
        yield queue
    finally:
        await queue.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_keys_that_wait_are_coalesced() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    async with running(work) as queue:
        for _ in range(10):
            queue.add("a")
        queue.add("b")
        assert queue.depth == 2
        await asyncio.sleep(1)
    assert sorted(done) == ["a", "b"]


async def test_key_is_never_worked_on_twice_at_a_time_and_never_lost() -> None:
    active, passes = 0, 0

    async def work(key: str) -> None:
        nonlocal active, passes
        active, passes = active + 1, passes + 1
        assert active == 1
        await asyncio.sleep(1)
        active -= 1

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(0.5)
        for _ in range(5):
            queue.add("a")
        await asyncio.sleep(5)
    assert passes == 2


async def test_failing_key_backs_off_and_others_do_not_wait() -> None:
    tries: list[float] = []
    served: list[float] = []

    async def work(key: str) -> None:
        if key == "bad":
            tries.append(now())
            raise RuntimeError("broken")
        served.append(now())

    async with running(work, workers=1) as queue:
        start = now()
        queue.add("bad")
        await asyncio.sleep(0.1)
        queue.add("good")
        await asyncio.sleep(8)
    assert [round(t - start, 1) for t in tries] == [0.0, 0.5, 1.5, 3.5, 7.5]
    assert served[0] - start < 0.2


async def test_backoff_is_forgotten_after_a_success_and_is_bounded() -> None:
    tries: list[float] = []

    async def work(key: str) -> None:
        tries.append(now())
        if len(tries) != 12:
            raise RetryLater("not yet")

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(3600)
        gaps = [b - a for a, b in itertools.pairwise(tries)]
        assert max(gaps) == pytest.approx(60)
        queue.add("a")
        await asyncio.sleep(1)
    assert tries[-1] - tries[-2] == pytest.approx(0.5)


async def test_asked_patience_is_kept() -> None:
    tries: list[float] = []

    async def work(key: str) -> None:
        tries.append(now())
        if len(tries) == 1:
            raise RetryLater("busy", after=20)

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(60)
    assert tries[1] - tries[0] == pytest.approx(20)


async def test_what_comes_within_a_delay_is_worked_on_once() -> None:
    times: list[float] = []

    async def work(key: str) -> None:
        times.append(now())

    async with running(work) as queue:
        began = now()
        for _ in range(5):
            queue.add_after("a", 3)
            await asyncio.sleep(0.5)
        queue.add_after("b", 0)
        await asyncio.sleep(10)
    assert [round(t - began, 1) for t in times] == [2.5, 3]


async def test_work_may_ask_to_be_repeated_and_the_earliest_date_counts() -> None:
    tries: list[float] = []

    async def work(key: str) -> float | None:
        tries.append(now())
        return 100.0 if len(tries) == 1 else None

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(1)
        queue.add_after("a", 200)
        queue.add_after("a", 10)
        await asyncio.sleep(500)
    assert [round(t - tries[0]) for t in tries] == [0, 11]


async def test_closing_ends_what_is_being_done() -> None:
    cancelled = asyncio.Event()

    async def work(key: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with running(work) as queue:
        queue.add("a")
        await asyncio.sleep(1)
    assert cancelled.is_set()


async def test_work_that_has_begun_may_end_and_what_waits_is_kept() -> None:
    ended: list[str] = []

    async def work(key: str) -> None:
        await asyncio.sleep(2)
        ended.append(key)

    queue: WorkQueue[str] = WorkQueue(work)
    queue.start(1)
    queue.add("a")
    queue.add("b")
    await asyncio.sleep(1)
    await queue.close(grace=3)
    assert ended == ["a"]
    assert now() == pytest.approx(2)
    queue.start(1)
    await asyncio.sleep(3)
    assert ended == ["a", "b"]
    await queue.close()


async def test_work_that_takes_longer_than_the_grace_is_cancelled() -> None:
    async def work(key: str) -> None:
        await asyncio.sleep(60)

    queue: WorkQueue[str] = WorkQueue(work)
    queue.start(2)
    queue.add("a")
    await asyncio.sleep(1)
    await queue.close(grace=3)
    assert now() == pytest.approx(4)
