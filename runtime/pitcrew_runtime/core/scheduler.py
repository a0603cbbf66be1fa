"""Which tokens the next step computes: continuous batching over a bounded pool of pages.

A step is a transaction: `plan` reserves pages and names the rows, and exactly one of `commit` (the
executor answered) and `rollback` (it did not) follows. Every step mixes decoding sequences with
prompt chunks under one token budget. When pages run out, the sequence of the least priority, among
equals the one admitted last, gives its own back and waits to be computed again; the first can
always go on, and every accepted request fits into the pool alone, so the whole always makes
progress. Cancelling marks; the next plan reaps.

Knows neither tensors nor clocks nor threads: one caller at a time.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.executor import Chosen
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.placement import HeadStart, Placement
from pitcrew_runtime.core.plan import Draft, Plan
from pitcrew_runtime.core.prefix import KeyChain, root_key
from pitcrew_runtime.core.request import Finish, Request, Update, news
from pitcrew_runtime.core.roster import Roster
from pitcrew_runtime.core.sequence import Sequence, State
from pitcrew_runtime.core.waiting import WaitingRoom
from pitcrew_runtime.errors import InvalidRequest, InvariantViolated, QueueFull

_ENTRIES_INSPECTED = 64
"""Of the page table in each step, beside the pages that are written."""


@dataclass(slots=True)
class Counts:
    """What has happened since the start."""

    preemptions: int = 0
    known_tokens: int = 0
    """Of admitted sequences, prompts and what a preemption took away."""
    reused_tokens: int = 0
    """Those of them that were found in pages."""


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

    def add(self, request: Request) -> None:
        """Queue a request; raises `QueueFull`, or `InvalidRequest` where it can never run."""
        if request.adapter is not None and not self.slots.count:
            raise InvalidRequest("this engine takes no adapters; name its own model", param="model")
        self.limits.check(request, self.pages.total)
        if self.waiting >= self.limits.max_waiting:
            raise QueueFull(f"{self.waiting} requests are waiting already; retry later")
        if request.id in self._roster.live:
            raise ValueError(f"request {request.id} is already here")
        self._serial += 1
        root = root_key(self._engine_id, _identity(request), request.tenant)
        sequence = Sequence(request, self._serial, KeyChain(root, self.limits.page_size))
        self._roster.arrive(sequence)

    def cancel(self, request_id: int) -> None:
        """End a request at the next plan; unknown and ended ones are ignored."""
        self._roster.cancel(request_id)

    def plan(self, now: float) -> Plan:
        """Reserve the step that begins at `now`. Empty rows: there is nothing to compute."""
        ended = self._reap(now)
        draft = Draft(self.limits.max_step_tokens)
        self._continue_decoding(draft)
        self._continue_prefilling(draft)
        self._admit(draft)
        if self.limits.lookahead:
            self._look_ahead(draft)
        self._check_books(draft)
        batch = StepBatch(draft.rows, self.limits.page_size, dict(self.slots.pinned), draft.copies)
        tokens = self.limits.max_step_tokens - draft.budget
        return Plan(
            batch, draft.sequences, tokens, draft.admitted, draft.reserved, draft.reused, ended
        )

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
                updates.append(news((sequence.id, sampled, None)))
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

    def _continue_decoding(self, draft: Draft) -> None:
        """One token for each decoding sequence; where pages lack, the last ones pay."""
        for sequence in [one for one in self._roster.decoding if one.computed >= one.capacity]:
            if sequence.state is State.DECODING:  # or it has paid for another
                self._grow(sequence, draft)
        draft.sequences = self._roster.decoding.copy()
        draft.rows = [one.row for one in draft.sequences]
        draft.budget -= len(draft.rows)

    def _grow(self, sequence: Sequence, draft: Draft) -> None:
        """One page more, or none and its own place lost."""
        self._placement.publish(sequence)
        while not self.pages.free:
            victim = self._roster.last()
            self._roster.evict(victim)
            self.counts.preemptions += 1
            if victim is sequence:
                return
        self._placement.extend(sequence, 1)
        draft.reserved.append((sequence, 1))

    def _continue_prefilling(self, draft: Draft) -> None:
        """Further chunks. Their pages were reserved at admission."""
        for sequence in self._roster.prefilling:
            if draft.budget:
                self._chunk(draft, sequence)

    def _admit(self, draft: Draft) -> None:
        """The next ones, as long as there is room for them.

        Those that need no adapter may pass one that waits for a slot. Those that need one may not:
        they could pin the slots for ever.
        """
        adapters, room = True, self._roster.room
        while draft.budget and self.running < self.limits.max_running:
            sequence = room.peek(adapters=adapters)
            if sequence is None:
                return
            if not self.slots.has_room(sequence.request.adapter):
                adapters = False
                continue
            start = self._placement.head_start(sequence)
            if not self._has_room(sequence, start):
                return
            self._roster.admit(room.pop(adapters=adapters))
            draft.copies += self._placement.place(sequence, start)
            draft.reused += start.computed
            draft.admitted.append(sequence)
            self._chunk(draft, sequence)

    def _has_room(self, sequence: Sequence, start: HeadStart) -> bool:
        """All its known tokens fit, and each running sequence can still cross into a next page."""
        cost = self._placement.cost(sequence, start)
        return cost + self.running <= self.pages.free or not self.running

    def _chunk(self, draft: Draft, sequence: Sequence) -> None:
        """A row of as many of its known tokens as the budget allows."""
        count = min(sequence.remaining, draft.budget)
        draft.rows.append(_row(sequence, count, self.pages.pages_of(sequence.id)))
        draft.sequences.append(sequence)
        draft.budget -= count

    def _look_ahead(self, draft: Draft) -> None:
        """Let decoding sequences guess with what the budget has left, into pages that are free."""
        decoding = self._roster.decoding
        each = min(self.limits.lookahead, draft.budget // (len(decoding) or 1))
        for sequence in decoding:
            want = min(each, sequence.longest - len(sequence.tokens) - 1)
            have = sequence.capacity // self.limits.page_size
            missing = self.limits.pages_for(len(sequence.tokens) + want) - have
            if missing > self.pages.free:
                want = sequence.capacity - len(sequence.tokens)
            elif missing > 0:
                self._placement.extend(sequence, missing)
                draft.reserved.append((sequence, missing))
            sequence.row.lookahead = want

    def _record(self, sequence: Sequence, row: Row, chosen: Chosen | None) -> list[Update]:
        """The news of any row: see `commit`."""
        if chosen is None:
            self._roster.end(sequence)
            return [Update(sequence.id, None, Finish.ERROR)]
        updates = []
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
        else:
            self._finish_chunk(sequence, row)
        return updates

    def _finish_chunk(self, sequence: Sequence, row: Row) -> None:
        """A part of its prompt is computed, or the whole and the first token chosen."""
        sequence.started = True
        self._placement.publish(sequence)
        if row.sampling is not None:
            pages = self.pages.pages_of(sequence.id)
            self._roster.decode(sequence, _row(sequence, 1, pages))

    def _give_back_unused(self, sequence: Sequence) -> None:
        """Pages beyond the next token, reserved for guesses that were wrong."""
        needed = self.limits.pages_for(len(sequence.tokens))
        unused = sequence.capacity // self.limits.page_size - needed
        if unused > 0:
            self._placement.shrink(sequence, unused)

    def _check_books(self, draft: Draft) -> None:
        """Only running sequences hold pages, each writes its own, and both records agree."""
        single = 0 if self.limits.lookahead else len(self._roster.decoding)
        self.pages.check_writers(draft.rows, self.limits.page_size, single)
        if len(self.pages.owners) != self.running:
            raise InvariantViolated(
                f"{len(self.pages.owners)} owners hold pages, {self.running} sequences run"
            )
        self.pages.check_books(_ENTRIES_INSPECTED)

    def _count(self, plan: Plan) -> None:
        self.counts.reused_tokens += plan.reused
        for sequence in plan.admitted:
            self.counts.known_tokens += len(sequence.tokens)


def _row(sequence: Sequence, count: int, pages: Seq[int]) -> Row:
    """The next `count` tokens that are not computed."""
    tokens, start = sequence.tokens, sequence.computed
    last = start + count == len(tokens)
    return Row(
        sequence_id=sequence.id,
        tokens=tokens[start : start + count],
        start=start,
        pages=pages,
        sampling=sequence.request.sampling if last else None,
        history=tokens,
        prompt_length=len(sequence.request.prompt),
        slot=sequence.slot,
    )


def _identity(request: Request) -> str:
    return request.adapter.identity if request.adapter is not None else ""
