import gc
import weakref
from dataclasses import replace

import pytest

from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.batch import StepBatch
from pitcrew_runtime.core.engine import Engine, ExecutorBroken
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.prefix import KeyChain, root_key
from pitcrew_runtime.core.request import Finish, Request, Update
from pitcrew_runtime.core.scheduler import Scheduler
from pitcrew_runtime.errors import InvalidRequest, InvariantViolated, QueueFull
from pitcrew_runtime.testing import EchoExecutor, NamedAdapter, NullExecutor, continuation

LIMITS = Limits(
    max_running=4, max_step_tokens=8, max_waiting=3, max_sequence_length=64, page_size=4
)


def request(number: int, prompt: int = 3, tokens: int = 4) -> Request:
    return Request(number, tuple(range(prompt)), tokens, 0.0)


def scheduler(pages: int = 32, limits: Limits = LIMITS) -> Scheduler:
    return Scheduler(limits, PageAllocator(pages))


def test_decoding_and_prompt_chunks_share_a_step() -> None:
    engine = Engine(heart := scheduler(), EchoExecutor(32, 4))
    engine.submit(request(1, prompt=2))
    engine.step(0.0)
    engine.submit(request(2, prompt=20))
    plan = heart.plan(0.0)
    rows = {row.sequence_id: (row.start, len(row.tokens), row.sampling) for row in plan.batch.rows}
    assert rows[1][:2] == (2, 1)
    assert rows[2] == (0, 7, None), "the rest of the budget, and no token yet"


def test_a_prompt_is_not_cut_to_fill_up_a_step() -> None:
    limits = replace(LIMITS, prefix_cache=False)
    engine = Engine(heart := scheduler(limits=limits), EchoExecutor(32, 4))
    engine.submit(request(1, prompt=5), request(2, prompt=6))
    report = engine.step(0.0)
    assert (report.rows, report.tokens) == (1, 5), "3 of the next prompt would have fitted"
    rows = {row.sequence_id: (row.start, len(row.tokens)) for row in heart.plan(0.0).batch.rows}
    assert rows == {1: (5, 1), 2: (0, 6)}


def test_short_prompts_do_not_wait_for_a_long_one_that_is_under_way() -> None:
    limits = replace(LIMITS, max_step_tokens=20, max_sequence_length=256, prefix_cache=False)
    engine = Engine(heart := scheduler(80, limits), EchoExecutor(80, 4))
    engine.submit(request(1, prompt=200, tokens=1))
    engine.step(0.0)
    engine.submit(request(2, prompt=4, tokens=1), request(3, prompt=5, tokens=1))
    engine.submit(request(4, prompt=190, tokens=1))
    rows = {row.sequence_id: len(row.tokens) for row in heart.plan(0.0).batch.rows}
    assert rows == {1: 11, 2: 4, 3: 5}, "half for the long one, and what the short ones leave"


def test_a_long_prompt_keeps_half_of_the_budget_under_any_load_of_short_ones() -> None:
    limits = replace(LIMITS, max_step_tokens=20, max_sequence_length=256)
    engine = Engine(scheduler(80, limits), EchoExecutor(80, 4))
    engine.submit(request(0, prompt=200, tokens=1))
    ended: dict[int, int] = {}
    for step in range(1, 40):
        for number in (2 * step, 2 * step + 1):
            if engine.gauges().waiting < limits.max_waiting:
                engine.submit(Request(number, (step,) * 8, 1, float(step)))
        ended |= {one.request_id: step for one in engine.step(step).updates if one.finish}
    assert ended[0] <= 20, "of 10 steps alone"
    assert min(ended[number] for number in ended if number) == 2


def test_no_more_is_kept_for_a_long_prompt_than_a_row_may_have() -> None:
    limits = Limits(5, 20, 4, 256, 4, prefix_cache=False, longest_row=4)
    engine = Engine(heart := scheduler(80, limits), EchoExecutor(80, 4))
    engine.submit(request(1, prompt=200))
    engine.step(0.0)
    engine.submit(*(request(number, prompt=4) for number in range(2, 6)))
    rows = {row.sequence_id: len(row.tokens) for row in heart.plan(0.0).batch.rows}
    assert rows == dict.fromkeys(range(1, 6), 4)


@pytest.mark.parametrize(
    ("prompt", "priority"), [(181, 0), (4, 1)], ids=["longer", "less important"]
)
def test_who_should_wait_for_a_prompt_under_way_does(prompt: int, priority: int) -> None:
    limits = replace(LIMITS, max_step_tokens=20, max_sequence_length=256, prefix_cache=False)
    engine = Engine(heart := scheduler(80, limits), EchoExecutor(80, 4))
    engine.submit(request(1, prompt=200))
    engine.step(0.0)
    engine.submit(replace(request(2, prompt=prompt), priority=priority))
    rows = {row.sequence_id: len(row.tokens) for row in heart.plan(0.0).batch.rows}
    assert rows == {1: 20}


def test_prompts_of_several_chunks_share_what_the_first_leaves() -> None:
    limits = replace(LIMITS, max_step_tokens=20, max_sequence_length=256, prefix_cache=False)
    engine = Engine(heart := scheduler(120, limits), EchoExecutor(120, 4))
    for number, prompt in ((1, 200), (2, 60), (3, 4)):
        engine.submit(request(number, prompt=prompt))
        if number < 3:
            engine.step(0.0)
    rows = {row.sequence_id: len(row.tokens) for row in heart.plan(0.0).batch.rows}
    assert rows == {1: 10, 2: 6, 3: 4}


def test_no_row_is_longer_than_it_may_be() -> None:
    limits = replace(LIMITS, longest_row=3)
    heart = scheduler(limits=limits)
    engine = Engine(heart, EchoExecutor(32, 4))
    engine.submit(request(1, prompt=7))
    lengths = []
    while not engine.idle:
        lengths.append(engine.step(0.0).tokens)
    assert lengths == [3, 3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (request(1, prompt=60, tokens=5), "make 65, but a sequence may have 64"),
        (request(1, prompt=0), "at least one prompt token"),
        (request(1, tokens=-1), "max_tokens from 0"),
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


def test_all_are_queued_or_none() -> None:
    heart = scheduler()
    heart.add(request(0))
    with pytest.raises(QueueFull):
        heart.add(request(1), request(2), request(3))
    with pytest.raises(InvalidRequest):
        heart.add(request(1), request(2, prompt=99))
    assert heart.waiting == 1
    heart.add(request(1), request(2))
    assert heart.waiting == 3


def test_a_million_tokens_take_their_pages_and_no_more() -> None:
    length, size = (1 << 20) - 8, 64
    limits = Limits(2, 1 << 14, 2, 1 << 20, page_size=size)
    pages = limits.pages_for(1 << 20)
    engine = Engine(Scheduler(limits, PageAllocator(pages)), NullExecutor(pages))
    engine.submit(Request(1, (5,) * length, 8, 0.0))
    steps = most = 0
    while not engine.idle:
        engine.step(0.0)
        steps, most = steps + 1, max(most, engine.gauges().pages_used)
    assert steps == 64 + 7
    assert most == pages
    assert engine.gauges().pages_used == 0
    engine.submit(Request(2, (5,) * length, 1, 0.0))
    engine.step(0.0)
    assert engine.idle, "all but the last page was found"


def test_cancelling_works_while_a_step_is_out() -> None:
    heart = scheduler()
    heart.add(request(1))
    plan = heart.plan(0.0)
    heart.cancel(1)
    executor = EchoExecutor(32, 4)
    (update,) = heart.commit(plan, executor.execute(plan.batch))
    assert update.finish is None
    (end,) = heart.plan(0.0).ended
    assert (end.request_id, end.finish) == (1, Finish.CANCELLED)
    assert heart.idle
    assert heart.pages.free == 32


def test_a_page_in_foreign_hands_stops_the_step() -> None:
    heart = scheduler()
    heart.add(request(1))
    plan = heart.plan(0.0)
    heart.commit(plan, EchoExecutor(32, 4).execute(plan.batch))
    heart.pages.share(99, heart.pages.pages_of(1))
    with pytest.raises(InvariantViolated, match="is to be written by 1"):
        heart.plan(0.0)


class Broken(EchoExecutor):
    def execute(self, batch: StepBatch) -> list[Chosen]:
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
    with pytest.raises(ExecutorBroken, match="3 steps in a row"):
        engine.step(0.0)


class Poisoned(EchoExecutor):
    """Fails whenever one of these requests is in the batch, after it has scribbled."""

    def __init__(self, *requests: int) -> None:
        super().__init__(32, 4)
        self._requests = set(requests)

    def execute(self, batch: StepBatch) -> list[Chosen]:
        results = super().execute(batch)
        if self._requests & {row.sequence_id for row in batch.rows}:
            raise RuntimeError("poison")
        return results


@pytest.mark.parametrize("poison", [(0,), (3,), (1, 2)])
def test_only_those_end_that_cannot_be_computed_alone(poison: tuple[int, ...]) -> None:
    heart = Scheduler(replace(LIMITS, max_waiting=9), PageAllocator(32))
    engine = Engine(heart, Poisoned(*poison))
    requests = [request(number, prompt=1 + number) for number in range(4)]
    for one in requests[:3]:
        engine.submit(one)
    updates = list(engine.step(0.0).updates)
    engine.submit(requests[3])
    updates += finish(engine)
    for one in requests:
        mine = [update for update in updates if update.request_id == one.id]
        tokens = [update.sampled.token for update in mine if update.sampled is not None]
        ends = [update.finish for update in mine if update.finish is not None]
        if one.id in poison:
            assert (tokens, ends) == ([], [Finish.ERROR])
        else:
            assert (tokens, ends) == (continuation(one.prompt, 4), [Finish.LENGTH])
    assert engine.gauges().pages_used == 0


def test_what_could_not_be_computed_is_not_kept_for_others() -> None:
    class Failing(EchoExecutor):
        def execute(self, batch: StepBatch) -> list[Chosen]:
            if any(row.start for row in batch.rows):
                raise RuntimeError("memory has flipped")
            return super().execute(batch)

    engine = Engine(heart := scheduler(), Failing(32, 4))
    engine.submit(request(1, prompt=20))
    engine.step(0.0)
    assert heart.pages.find(chain().key(1, range(20))) is not None
    (update,) = finish(engine)
    assert update.finish is Finish.ERROR
    assert heart.pages.cached == 0
    assert heart.pages.find(chain().key(1, range(20))) is None
    heart.pages.audit()


def chain() -> KeyChain:
    return KeyChain(root_key("", "", ""), 4)


def finish(engine: Engine) -> list[Update]:
    updates: list[Update] = []
    while not engine.idle:
        updates += engine.step(0.0).updates
    return updates


def test_nothing_refers_to_a_request_that_has_ended() -> None:
    """An adapter's memory, and a prompt's, is free when the last request has ended that had it."""
    engine = Engine(Scheduler(LIMITS, PageAllocator(32), AdapterSlots(1)), EchoExecutor(32, 4))
    adapter = NamedAdapter("a")
    alive = weakref.ref(adapter)
    engine.submit(*(replace(request(n), adapter=adapter, deadline=1e9) for n in (1, 2, 3)))
    engine.cancel(3)
    finish(engine)
    del adapter
    gc.collect()
    assert alive() is None


def test_queue_time_is_told_once() -> None:
    engine = Engine(scheduler(), EchoExecutor(32, 4))
    engine.submit(request(1))
    assert engine.step(2.5).queue_seconds == (2.5,)
    assert engine.step(3.0).queue_seconds == ()


def test_who_comes_too_late_ends_waiting_or_running() -> None:
    heart = scheduler()
    engine = Engine(heart, EchoExecutor(32, 4))
    engine.submit(replace(request(1, tokens=60), deadline=2.0))
    engine.step(1.0)
    engine.submit(replace(request(2), deadline=1.5))
    engine.submit(replace(request(3), deadline=9.0))
    (late,) = heart.plan(1.5).ended
    assert (late.request_id, late.finish) == (2, Finish.TIMEOUT)
    assert [end.request_id for end in heart.plan(2.0).ended] == [1]
    updates = finish(engine)
    assert [one.request_id for one in updates if one.finish is Finish.LENGTH] == [3]


def test_the_least_important_pays_for_pages() -> None:
    engine = Engine(heart := scheduler(pages=4), EchoExecutor(4, 4))
    engine.submit(replace(request(1, prompt=4, tokens=8), priority=1))
    engine.submit(Request(2, (9, 9, 9, 9), 8, 0.0))
    engine.step(0.0)
    updates = finish(engine)
    assert heart.counts.preemptions
    ends = [update.request_id for update in updates if update.finish is not None]
    assert ends == [2, 1], "although 1 came first"


def test_a_prompt_that_begins_alike_starts_where_it_differs() -> None:
    limits = replace(LIMITS, max_step_tokens=10)
    engine = Engine(heart := scheduler(limits=limits), EchoExecutor(32, 4))
    engine.submit(Request(1, tuple(range(10)), 2, 0.0))
    finish(engine)
    for number, tenant in ((2, ""), (3, "other")):
        engine.submit(Request(number, (*range(8), 99), 2, 0.0, tenant=tenant))
    rows = {row.sequence_id: row for row in heart.plan(0.0).batch.rows}
    assert (rows[2].start, list(rows[2].tokens)) == (8, [99])
    assert rows[3].start == 0, "another tenant must not profit"
    shared = rows[2].pages[:2]
    assert not set(shared) & set(rows[3].pages)


def test_a_prompt_that_is_all_known_still_computes_its_last_page() -> None:
    engine = Engine(heart := scheduler(), EchoExecutor(32, 4))
    for number in (1, 2):
        engine.submit(Request(number, tuple(range(8)), 1, 0.0))
        plan = heart.plan(0.0)
        heart.rollback(plan)
        assert plan.batch.rows[0].start == (0 if number == 1 else 4)
        finish(engine)


def test_the_cache_can_be_switched_off() -> None:
    heart = Scheduler(replace(LIMITS, prefix_cache=False), PageAllocator(32))
    engine = Engine(heart, EchoExecutor(32, 4))
    for number in (1, 2):
        engine.submit(Request(number, tuple(range(8)), 1, 0.0))
        finish(engine)
    assert heart.counts.reused_tokens == 0
    assert heart.pages.cached == 0


def test_forks_share_full_pages_and_copy_the_last() -> None:
    heart = Scheduler(replace(LIMITS, prefix_cache=False), PageAllocator(32))
    engine = Engine(heart, EchoExecutor(32, 4))
    engine.submit(first := Request(1, tuple(range(7)), 9, 0.0))
    for number in (2, 3):
        engine.submit(replace(first, id=number, fork_of=1))
    assert engine.step(0.0).rows == 1, "the forks wait for the prompt"
    plan = heart.plan(0.0)
    rows = {row.sequence_id: row for row in plan.batch.rows}
    for number in (2, 3):
        assert (rows[number].start, list(rows[number].tokens)) == (6, [6])
        assert rows[number].pages[0] == rows[1].pages[0]
        assert (rows[1].pages[1], rows[number].pages[1]) in plan.batch.copies
    heart.rollback(plan)
    updates = finish(engine)
    for number in (2, 3):
        assert tokens_of(updates, number) == continuation(range(7), 9)
    assert heart.counts.reused_tokens == 12


@pytest.mark.parametrize("tokens", [1, 9], ids=["that has ended", "that runs"])
def test_a_prompt_is_hashed_once_for_all_its_forks(tokens: int) -> None:
    engine = Engine(heart := scheduler(), EchoExecutor(32, 4))
    engine.submit(first := Request(1, tuple(range(7)), tokens, 0.0))
    engine.submit(replace(first, id=2, max_tokens=9, fork_of=1))
    engine.step(0.0)
    keys = KeyChain(root_key("", "", ""), 4).keys(1, range(7))
    assert list(heart._roster.live[2].chain.keys(1, ())) == list(keys), "no token is looked at"
    assert tokens_of(finish(engine), 2) == continuation(range(7), 9)


def tokens_of(updates: list[Update], number: int) -> list[int]:
    return [one.sampled.token for one in updates if one.request_id == number and one.sampled]


def test_a_text_that_outgrows_short_ones_is_computed_again() -> None:
    heart = Scheduler(replace(LIMITS, short_length=10), PageAllocator(32))
    engine = Engine(heart, EchoExecutor(32, 4))
    engine.submit(Request(1, tuple(range(8)), 8, 0.0))
    starts = []
    updates: list[Update] = []
    while not engine.idle:
        plan = heart.plan(0.0)
        heart.rollback(plan)
        starts += [(row.start, row.end, row.long) for row in plan.batch.rows]
        updates += engine.step(0.0).updates
    assert starts[:3] == [(0, 8, False), (8, 9, False), (9, 10, False)]
    assert starts[3:5] == [(0, 8, True), (8, 11, True)]
    assert all(long for *_, long in starts[3:])
    assert tokens_of(updates, 1) == continuation(range(8), 8, short_length=10)
    assert (heart.counts.outgrown, heart.counts.preemptions) == (1, 0)


def test_pages_of_short_and_long_texts_are_not_confused() -> None:
    heart = Scheduler(replace(LIMITS, short_length=10), PageAllocator(32))
    engine = Engine(heart, EchoExecutor(32, 4))
    engine.submit(Request(1, tuple(range(9)), 1, 0.0), Request(2, (*range(8), 9, 9, 9), 1, 0.0))
    finish(engine)
    for number, (prompt, found) in enumerate(
        [((*range(8), 7), 8), ((*range(8), 7, 7, 7), 8)], start=3
    ):
        engine.submit(Request(number, prompt, 1, 0.0))
        plan = heart.plan(0.0)
        heart.rollback(plan)
        assert plan.batch.rows[0].start == found
        assert tokens_of(finish(engine), number) == continuation(prompt, 1, short_length=10)
    heart.pages.audit()


def test_a_fork_takes_no_pages_of_one_that_has_outgrown_their_prompt() -> None:
    limits = replace(LIMITS, short_length=7, max_step_tokens=8, prefix_cache=False)
    engine = Engine(heart := Scheduler(limits, PageAllocator(32)), EchoExecutor(32, 4))
    engine.submit(first := Request(1, tuple(range(7)), 9, 0.0), replace(first, id=2, fork_of=1))
    assert engine.step(0.0).rows == 1, "the fork waits for the prompt"
    assert engine.step(0.0).rows == 1, "the first takes the whole step to begin anew"
    plan = heart.plan(0.0)
    rows = {row.sequence_id: row for row in plan.batch.rows}
    assert (rows[1].start, rows[1].long) == (8, True)
    assert (rows[2].start, rows[2].long) == (0, False)
    heart.rollback(plan)
    updates = finish(engine)
    assert tokens_of(updates, 2) == continuation(range(7), 9, short_length=7)


@pytest.mark.parametrize("when", [0, 1])
def test_forks_survive_the_end_of_the_one_they_wait_for(when: int) -> None:
    engine = Engine(scheduler(), EchoExecutor(32, 4))
    engine.submit(first := Request(1, tuple(range(20)), 2, 0.0))
    engine.submit(replace(first, id=2, fork_of=1))
    engine.submit(replace(first, id=3, fork_of=1))
    for _ in range(when):
        engine.step(0.0)
    engine.cancel(1)
    engine.cancel(3)
    updates = finish(engine)
    ends = {one.request_id: one.finish for one in updates if one.finish is not None}
    assert ends == {1: Finish.CANCELLED, 2: Finish.LENGTH, 3: Finish.CANCELLED}
    tokens = [one.sampled.token for one in updates if one.request_id == 2 and one.sampled]
    assert tokens == continuation(range(20), 2)


def test_a_fork_of_another_prompt_is_refused() -> None:
    heart = scheduler()
    heart.add(request(1))
    with pytest.raises(ValueError, match="request 2 forks 1, whose prompt is another"):
        heart.add(replace(request(2, prompt=5), fork_of=1))
    assert heart.waiting == 1
