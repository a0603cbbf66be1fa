"""Which tokens the next step computes: continuous batching over a bounded pool of pages.

A step is a transaction: `plan` reserves pages and names the rows, and exactly one of `commit` (the
executor answered) and `rollback` (it did not) follows. Every step mixes decoding sequences with
prompt chunks under one token budget. When pages run out, the sequence admitted last gives its own
back and waits to be computed again; the oldest can always go on, and every accepted request fits
into the pool alone, so the whole always makes progress. Cancelling marks; the next plan reaps.

Knows neither tensors nor clocks nor threads: one caller at a time.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from pitcrew_runtime.core.adapters import NO_ADAPTER, AdapterSlots
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.request import Finish, Request, Sampled, Update
from pitcrew_runtime.core.sequence import Sequence
from pitcrew_runtime.core.waiting import Policy, WaitingRoom
from pitcrew_runtime.errors import InvalidRequest, InvariantViolated, QueueFull


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler may use."""

    max_running: int
    """Sequences in one batch."""
    max_step_tokens: int
    """New tokens in one step; the longest prompt chunk."""
    max_waiting: int
    """Requests that may wait beside the running ones."""
    max_sequence_length: int
    """Prompt and output tokens of one sequence."""
    page_size: int
    """Tokens in a page."""
    policy: Policy = Policy.FCFS

    def __post_init__(self) -> None:
        for name in ("max_running", "max_waiting", "page_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; at least 1 is needed")
        if self.max_step_tokens <= self.max_running:
            raise ValueError(
                f"max_step_tokens: {self.max_step_tokens}; more than max_running "
                f"({self.max_running}) are needed, or prompts would starve beside a full batch"
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """One step, reserved and not yet run."""

    batch: StepBatch
    sequences: tuple[Sequence, ...]
    """Parallel to the batch's rows."""
    admitted: tuple[Sequence, ...]
    """Those of the rows that left the waiting room for this step."""
    reserved: tuple[tuple[int, int], ...]
    """(owner, pages) handed to sequences that ran before."""
    ended: tuple[Update, ...]
    """Requests that were cancelled since the last step."""


class _Draft:
    """A plan in the making."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.rows: list[Row] = []
        self.sequences: list[Sequence] = []
        self.admitted: list[Sequence] = []
        self.reserved: list[tuple[int, int]] = []


class Scheduler:
    """Waiting and running sequences, and the pages and adapter slots between them."""

    def __init__(
        self, limits: Limits, pages: PageAllocator, slots: AdapterSlots | None = None
    ) -> None:
        self.limits = limits
        self.pages = pages
        self.slots = slots or AdapterSlots(0)
        self.preemptions = 0
        self._waiting = WaitingRoom(limits.policy)
        self._running: list[Sequence] = []
        self._live: dict[int, Sequence] = {}
        self._cancelled: set[int] = set()
        self._serial = 0

    @property
    def waiting(self) -> int:
        """Requests that have no pages now."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that have pages now."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Nothing waits, runs or is to be reaped."""
        return not self._live

    def add(self, request: Request) -> None:
        """Queue a request; raises `QueueFull`, or `InvalidRequest` where it can never run."""
        self._check_fits(request)
        if len(self._waiting) >= self.limits.max_waiting:
            raise QueueFull(f"{len(self._waiting)} requests are waiting already; retry later")
        if request.id in self._live:
            raise ValueError(f"request {request.id} is already here")
        self._serial += 1
        sequence = Sequence(request, self._serial)
        self._live[request.id] = sequence
        self._waiting.push(sequence)

    def cancel(self, request_id: int) -> None:
        """End a request at the next plan; unknown and ended ones are ignored."""
        if request_id in self._live:
            self._cancelled.add(request_id)

    def plan(self) -> Plan:
        """Reserve the next step. Empty rows: there is nothing to compute."""
        ended = self._reap()
        draft = _Draft(self.limits.max_step_tokens)
        self._continue_decoding(draft)
        self._continue_prefilling(draft)
        self._admit(draft)
        self._check_owners()
        return Plan(
            StepBatch(tuple(draft.rows), self.limits.page_size, dict(self.slots.pinned)),
            tuple(draft.sequences),
            tuple(draft.admitted),
            tuple(draft.reserved),
            ended,
        )

    def commit(self, plan: Plan, results: Seq[Sampled | None]) -> list[Update]:
        """Record what the executor computed; the news of every request that has any."""
        if len(results) != len(plan.sequences):
            raise ValueError(f"{len(results)} results for {len(plan.sequences)} rows")
        updates = list(plan.ended)
        for sequence, row, sampled in zip(plan.sequences, plan.batch.rows, results, strict=True):
            sequence.computed, sequence.started = row.end, True
            if sampled is not None:
                finish = sequence.accept(sampled)
                updates.append(Update(sequence.id, sampled, finish))
                if finish is not None:
                    self._end(sequence)
        return updates

    def rollback(self, plan: Plan) -> None:
        """Undo the plan's reservations; its rows come again. Cancellations and preemptions stand:
        they lose no token.
        """
        for owner, count in reversed(plan.reserved):
            self.pages.shrink(owner, count)
        for sequence in reversed(plan.admitted):
            self._evict(sequence)

    def fail(self, plan: Plan) -> list[Update]:
        """After a rollback: end all the plan's requests with an error."""
        for sequence in plan.sequences:
            self._end(sequence)
        return [Update(sequence.id, None, Finish.ERROR) for sequence in plan.sequences]

    def _check_fits(self, request: Request) -> None:
        if request.adapter is not None and not self.slots.count:
            raise InvalidRequest("this engine takes no adapters; name its own model", param="model")
        length = len(request.prompt) + request.max_tokens
        if not request.prompt or request.max_tokens < 1:
            raise InvalidRequest("a request needs at least one prompt token and one to generate")
        if length > self.limits.max_sequence_length:
            raise InvalidRequest(
                f"{len(request.prompt)} prompt tokens and {request.max_tokens} to generate make "
                f"{length}, but a sequence may have {self.limits.max_sequence_length}; shorten "
                "the prompt or lower max_tokens",
                param="max_tokens",
            )
        if self._pages_for(length) > self.pages.total:
            raise InvalidRequest(
                f"{length} tokens need {self._pages_for(length)} KV pages, but the pool has "
                f"{self.pages.total}; shorten the request or give the server more --kv-memory",
                param="max_tokens",
            )

    def _continue_decoding(self, draft: _Draft) -> None:
        """One token for each decoding sequence, oldest first; the newest pay with their pages."""
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            if sequence.remaining > 1:
                index += 1
            elif self._reserve(sequence, draft):
                self._row(draft, sequence, 1)
                index += 1

    def _continue_prefilling(self, draft: _Draft) -> None:
        """Further chunks, oldest first. Their pages were reserved at admission."""
        for sequence in self._running:
            if sequence.remaining > 1 and draft.budget:
                self._row(draft, sequence, min(sequence.remaining, draft.budget))

    def _admit(self, draft: _Draft) -> None:
        """The next ones, as long as there is room for them.

        Those that need no adapter may pass one that waits for a slot. Those that need one may not:
        they could pin the slots for ever.
        """
        adapters = True
        while draft.budget and len(self._running) < self.limits.max_running:
            sequence = self._waiting.peek(adapters=adapters)
            if sequence is None:
                return
            if not self.slots.has_room(sequence.request.adapter):
                adapters = False
                continue
            if not self._has_room(sequence):
                return
            self._running.append(self._waiting.pop(adapters=adapters))
            sequence.slot = self.slots.take(sequence.request.adapter)
            self.pages.extend(sequence.id, self._pages_for(len(sequence.tokens)))
            draft.admitted.append(sequence)
            self._row(draft, sequence, min(sequence.remaining, draft.budget))

    def _check_owners(self) -> None:
        """Only running sequences hold pages, and all of them do: a page that leaked would show."""
        if len(self.pages.owners) != len(self._running):
            raise InvariantViolated(
                f"{len(self.pages.owners)} owners hold pages, {len(self._running)} sequences run"
            )

    def _has_room(self, sequence: Sequence) -> bool:
        """All its known tokens fit, and each running sequence can still cross into a next page."""
        return self._pages_for(len(sequence.tokens)) + len(self._running) <= self.pages.free or (
            not self._running
        )

    def _reserve(self, sequence: Sequence, draft: _Draft) -> bool:
        """Pages for every known token; False where that cost the sequence its own place."""
        missing = self._pages_for(len(sequence.tokens)) - len(self.pages.pages_of(sequence.id))
        while missing > self.pages.free:
            victim = self._running[-1]
            self._evict(victim)
            self.preemptions += 1
            if victim is sequence:
                return False
        if missing > 0:
            self.pages.extend(sequence.id, missing)
            draft.reserved.append((sequence.id, missing))
        return True

    def _row(self, draft: _Draft, sequence: Sequence, count: int) -> None:
        start, end = sequence.computed, sequence.computed + count
        pages = self.pages.pages_of(sequence.id)
        size = self.limits.page_size
        self.pages.check_exclusive(sequence.id, pages[start // size : self._pages_for(end)])
        sampling = sequence.request.sampling if end == len(sequence.tokens) else None
        tokens = sequence.tokens[start:end]
        prompt = len(sequence.request.prompt)
        draft.rows.append(
            Row(sequence.id, tokens, start, pages, sampling, sequence.slot, sequence.tokens, prompt)
        )
        draft.sequences.append(sequence)
        draft.budget -= count

    def _evict(self, sequence: Sequence) -> None:
        """From running back to waiting, without pages."""
        self._stop(sequence)
        sequence.computed = 0
        self._waiting.push(sequence)

    def _end(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is: only running ones hold pages."""
        if self.pages.pages_of(sequence.id):
            self._stop(sequence)
        else:
            self._waiting.discard(sequence)
        del self._live[sequence.id]
        self._cancelled.discard(sequence.id)

    def _stop(self, sequence: Sequence) -> None:
        """Take back what a running sequence holds."""
        self._running.remove(sequence)
        self.pages.release(sequence.id)
        self.slots.release(sequence.slot)
        sequence.slot = NO_ADAPTER

    def _reap(self) -> tuple[Update, ...]:
        ended = sorted(self._cancelled)
        for request_id in ended:
            self._end(self._live[request_id])
        return tuple(Update(request_id, None, Finish.CANCELLED) for request_id in ended)

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.page_size)
