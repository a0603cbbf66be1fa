import pytest

from pitcrew_runtime.core.engine import Engine, ExecutorBroken
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import Finish, Request
from pitcrew_runtime.core.scheduler import Limits, Scheduler
from pitcrew_runtime.errors import InvalidRequest, InvariantViolated, QueueFull
from pitcrew_runtime.testing import EchoExecutor

LIMITS = Limits(
    max_running=4, max_step_tokens=8, max_waiting=3, max_sequence_length=64, page_size=4
)


def request(number: int, prompt: int = 3, tokens: int = 4) -> Request:
    return Request(number, tuple(range(prompt)), tokens, 0.0)


def scheduler(pages: int = 32) -> Scheduler:
    return Scheduler(LIMITS, PageAllocator(pages))


def test_decoding_and_prompt_chunks_share_a_step() -> None:
    engine = Engine(heart := scheduler(), EchoExecutor(32, 4))
    engine.submit(request(1, prompt=2))
    engine.step(0.0)
    engine.submit(request(2, prompt=20))
    plan = heart.plan()
    rows = {row.sequence_id: (row.start, len(row.tokens), row.sampling) for row in plan.batch.rows}
    assert rows[1][:2] == (2, 1)
    assert rows[2] == (0, 7, None), "the rest of the budget, and no token yet"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (request(1, prompt=60, tokens=5), "make 65, but a sequence may have 64"),
        (request(1, prompt=0), "at least one prompt token"),
        (request(1, tokens=0), "at least one prompt token"),
    ],
)
def test_impossible_requests_are_refused_with_numbers(bad: Request, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        scheduler().add(bad)


def test_a_request_that_no_pool_could_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="16 tokens need 4 KV pages, but the pool has 3"):
        scheduler(pages=3).add(request(1, prompt=12, tokens=4))


def test_the_waiting_room_is_bounded() -> None:
    heart = scheduler()
    for number in range(3):
        heart.add(request(number))
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        heart.add(request(3))


def test_a_budget_without_room_for_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match="max_step_tokens: 4"):
        Limits(4, 4, 1, 64, 4)


def test_cancelling_works_while_a_step_is_out() -> None:
    heart = scheduler()
    heart.add(request(1))
    plan = heart.plan()
    heart.cancel(1)
    executor = EchoExecutor(32, 4)
    (update,) = heart.commit(plan, executor.execute(plan.batch))
    assert update.finish is None
    (end,) = heart.plan().ended
    assert (end.request_id, end.finish) == (1, Finish.CANCELLED)
    assert heart.idle
    assert heart.pages.free == 32


def test_a_page_in_foreign_hands_stops_the_step() -> None:
    heart = scheduler()
    heart.add(request(1))
    plan = heart.plan()
    heart.commit(plan, EchoExecutor(32, 4).execute(plan.batch))
    heart.pages.share(99, heart.pages.pages_of(1))
    with pytest.raises(InvariantViolated, match="is to be written by 1"):
        heart.plan()


class Broken(EchoExecutor):
    def execute(self, batch: object) -> list[None]:  # type: ignore[override]
        raise RuntimeError("no device")


def test_an_executor_that_stays_broken_fails_requests_then_the_engine() -> None:
    engine = Engine(scheduler(), Broken(32, 4))
    engine.submit(request(1))
    assert engine.step(0.0).updates == ()
    (update,) = engine.step(0.0).updates
    assert update.finish is Finish.ERROR
    for number in (2, 3):
        engine.submit(request(number))
    for _ in range(2):
        engine.step(0.0)
    engine.submit(request(4))
    engine.step(0.0)
    with pytest.raises(ExecutorBroken, match="6 times"):
        engine.step(0.0)


def test_queue_time_is_told_once() -> None:
    engine = Engine(scheduler(), EchoExecutor(32, 4))
    engine.submit(request(1))
    assert engine.step(2.5).queue_seconds == (2.5,)
    assert engine.step(3.0).queue_seconds == ()
