"""The scheduler: requests come in, steps are planned and recorded.

A step is a transaction: `plan` reserves pages and names the rows, and exactly one of `commit` (the
executor answered) and `rollback` (it did not) follows. Cancelling marks; the next plan reaps.

Knows neither tensors nor clocks nor threads: one caller at a time.
"""

from collections.abc import Sequence as Seq

from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.placement import Placement
from pitcrew_runtime.core.plan import Counts, Plan
from pitcrew_runtime.core.planner import Planner, next_row
from pitcrew_runtime.core.prefix import KeyChain, root_key
from pitcrew_runtime.core.request import Finish, Request, Update, news
from pitcrew_runtime.core.roster import Roster
from pitcrew_runtime.core.sequence import Sequence
from pitcrew_runtime.core.waiting import WaitingRoom
from pitcrew_runtime.errors import InvalidRequest, QueueFull


class Scheduler:
    """Waiting and running sequences, and the pages and adapter slots between them.

    `engine_id` is part of what decides keys and values: see `prefix`.
    """

    def __init__(
        self,
        limits: Limits,
        pages: PageAllocator,
        slots: AdapterSlots | None = None,
        engine_id: str = "",
    ) -> None:
        self.limits = limits
        self.pages = pages
        self.slots = slots or AdapterSlots(0)
        self.counts = Counts()
        self._engine_id = engine_id
        self._placement = Placement(limits, pages)
        self._roster = Roster(WaitingRoom(limits.policy), self._placement, self.slots)
        self._planner = Planner(
            limits, pages, self.slots, self._placement, self._roster, self.counts
        )
        self._serial = 0

    @property
    def waiting(self) -> int:
        """Requests that have no pages now."""
        return self._roster.waiting

    @property
    def running(self) -> int:
        """Requests that have pages now."""
        return self._roster.running

    @property
    def idle(self) -> bool:
        """Nothing waits, runs or is to be reaped."""
        return not self._roster.live

    def add(self, *requests: Request) -> None:
        """Queue all of them or, where it raises, none.

        Raises `QueueFull`, or `InvalidRequest` where one can never run.
        """
        for request in requests:
            self._check(request)
        if self.waiting + len(requests) > self.limits.max_waiting:
            raise QueueFull(f"{self.waiting} requests are waiting already; retry later")
        for request in requests:
            self._serial += 1
            root = root_key(self._engine_id, _identity(request), request.tenant)
            sequence = Sequence(request, self._serial, KeyChain(root, self.limits.page_size))
            if self.limits.outgrown(len(sequence.tokens)):
                sequence.outgrow()
            self._roster.arrive(sequence)

    def _check(self, request: Request) -> None:
        if request.adapter is not None and not self.slots.count:
            raise InvalidRequest("this engine takes no adapters; name its own model", param="model")
        self.limits.check(request, self.pages.total)
        if request.id in self._roster.live:
            raise ValueError(f"request {request.id} is already here")

    def cancel(self, request_id: int) -> None:
        """End a request at the next plan; unknown and ended ones are ignored."""
        self._roster.cancel(request_id)

    def plan(self, now: float) -> Plan:
        """Reserve the step that begins at `now`. Empty rows: there is nothing to compute."""
        return self._planner.plan(self._reap(now))

    def commit(self, plan: Plan, results: Seq[Chosen | None]) -> list[Update]:
        """Record what the executor computed; the news of every request that has any.

        None: the row cannot be computed, and its request ends with an error.
        """
        if len(results) != len(plan.sequences):
            raise ValueError(f"{len(results)} results for {len(plan.sequences)} rows")
        self._count(plan)
        updates = list(plan.ended)
        for sequence, row, chosen in zip(plan.sequences, plan.batch.rows, results, strict=True):
            if row is not sequence.row or row.lookahead or not chosen:
                updates += self._record(sequence, row, chosen)
                continue
            # One token of a decoding sequence: the loop where a step's time goes.
            sampled = chosen[0]
            token = sampled.token
            tokens = sequence.tokens
            row.start = sequence.computed = len(tokens)
            row.tokens = (token,)
            tokens.append(token)
            if token in sequence.stop_tokens or len(tokens) >= sequence.longest:
                updates.append(Update(sequence.id, sampled, sequence.finish))
                self._roster.end(sequence)
            else:
                updates.append(news((sequence.id, sampled, None, ())))
        return updates

    def rollback(self, plan: Plan) -> None:
        """Undo the plan's reservations; its rows come again. Cancellations and preemptions stand:
        they lose no token.
        """
        for sequence, count in reversed(plan.reserved):
            if sequence.running:  # or it was preempted after all
                self._placement.shrink(sequence, count)
        for sequence in reversed(plan.admitted):
            self._roster.evict(sequence)

    def _reap(self, now: float) -> tuple[Update, ...]:
        ended = []
        for sequence, finish in self._roster.due(now):
            self._roster.end(sequence)
            ended.append(Update(sequence.id, None, finish))
        return tuple(ended)

    def _record(self, sequence: Sequence, row: Row, chosen: Chosen | None) -> list[Update]:
        """The news of any row: see `commit`."""
        if chosen is None:
            self._placement.withdraw(sequence)
            self._roster.end(sequence)
            return [Update(sequence.id, None, Finish.ERROR)]
        updates = self._score(sequence, row, chosen[: row.scores])
        chosen = chosen[row.scores :]
        for sampled in chosen:
            sequence.tokens.append(sampled.token)
            updates.append(Update(sequence.id, sampled, sequence.finish))
            if sequence.finish is not None:
                break
        # Of the last token that was chosen nothing is computed, whatever came before it.
        sequence.computed = len(sequence.tokens) - 1 if chosen else row.end
        if chosen and sequence.finish is not None:
            self._roster.end(sequence)
        elif row is sequence.row:
            row.start, row.tokens = sequence.computed, sequence.tokens[-1:]
            self._give_back_unused(sequence)
        elif row.end < sequence.longest:
            self._finish_chunk(sequence, row)
        else:
            updates.append(Update(sequence.id, None, Finish.LENGTH))
            self._roster.end(sequence)
        return updates

    def _score(self, sequence: Sequence, row: Row, scores: Chosen) -> list[Update]:
        """The news of a prompt's log probabilities, each told once however often it is computed."""
        fresh = tuple(scores[sequence.scored - row.start - 1 :])
        sequence.scored += len(fresh)
        return [Update(sequence.id, scores=fresh)] if fresh else []

    def _finish_chunk(self, sequence: Sequence, row: Row) -> None:
        """A part of its prompt is computed, or the whole and the first token chosen."""
        sequence.started = True
        self._placement.publish(sequence)
        if row.sampling is not None:
            pages = self.pages.pages_of(sequence.id)
            self._roster.decode(sequence, next_row(sequence, 1, pages))

    def _give_back_unused(self, sequence: Sequence) -> None:
        """Pages beyond the next token, reserved for guesses that were wrong."""
        needed = self.limits.pages_for(len(sequence.tokens))
        unused = sequence.capacity // self.limits.page_size - needed
        if unused > 0:
            self._placement.shrink(sequence, unused)

    def _count(self, plan: Plan) -> None:
        self.counts.reused_tokens += plan.reused
        for sequence in plan.admitted:
            self.counts.known_tokens += len(sequence.tokens)


def _identity(request: Request) -> str:
    return request.adapter.identity if request.adapter is not None else ""
