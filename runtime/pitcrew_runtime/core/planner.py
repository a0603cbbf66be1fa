"""Which tokens the next step computes: continuous batching over a bounded pool of pages.

Every step mixes decoding sequences with prompt chunks under one token budget. A prompt of many
chunks leaves half of the budget to shorter ones that come while it is computed. When pages run out,
the sequence of the least priority, among equals the one admitted last, gives its own back and waits
to be computed again; the first can always go on, and every accepted request fits into the pool
alone, so the whole always makes progress.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial

from pitcrew_runtime.core.adapters import AdapterSlots
from pitcrew_runtime.core.batch import Row, StepBatch
from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.placement import HeadStart, Placement
from pitcrew_runtime.core.plan import Counts, Draft, Plan
from pitcrew_runtime.core.request import Update
from pitcrew_runtime.core.roster import Roster
from pitcrew_runtime.core.sequence import Sequence, State
from pitcrew_runtime.errors import InvariantViolated

_Gate = Callable[[Sequence, HeadStart], bool]
"""Whether one that waits may be computed from this step on."""

_ENTRIES_INSPECTED = 64
"""Of the page table in each step, beside the pages that are written."""


class Planner:
    """Reserves steps for the sequences of a roster."""

    def __init__(
        self,
        limits: Limits,
        pages: PageAllocator,
        slots: AdapterSlots,
        placement: Placement,
        roster: Roster,
        counts: Counts,
    ) -> None:
        self._limits = limits
        self._pages = pages
        self._slots = slots
        self._placement = placement
        self._roster = roster
        self._counts = counts

    def plan(self, ended: tuple[Update, ...]) -> Plan:
        """The next step, with the news of those that have ended before it.

        Raises `InvariantViolated`.
        """
        draft = Draft(self._limits.max_step_tokens)
        if self._limits.short_length:
            self._begin_outgrown_anew()
        self._continue_decoding(draft)
        self._continue_prefilling(draft)
        self._admit(draft, partial(self._is_not_cut, draft))
        if self._limits.lookahead:
            self._look_ahead(draft)
        self._check_books(draft)
        adapters = dict(self._slots.pinned)
        return Plan(
            batch=StepBatch(draft.rows, self._limits.page_size, adapters, draft.copies),
            sequences=draft.sequences,
            tokens=self._limits.max_step_tokens - draft.budget,
            admitted=draft.admitted,
            reserved=draft.reserved,
            reused=draft.reused,
            ended=ended,
        )

    def _begin_outgrown_anew(self) -> None:
        """Texts that are short ones no longer go first among those that wait for their pages."""
        for sequence in self._roster.decoding.copy():
            if not sequence.long and self._limits.outgrown(len(sequence.tokens)):
                self._roster.evict(sequence)
                sequence.outgrow()
                self._counts.outgrown += 1

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
        while not self._pages.free:
            victim = self._roster.last()
            self._roster.evict(victim)
            self._counts.preemptions += 1
            if victim is sequence:
                return
        self._placement.extend(sequence, 1)
        draft.reserved.append((sequence, 1))

    def _continue_prefilling(self, draft: Draft) -> None:
        """Further chunks, whose pages were reserved at admission.

        The one that was admitted first has half of the budget, as far as it needs so much. In the
        other half shorter ones are computed: those that wait, then those that were admitted later.
        """
        under_way = self._roster.prefilling.copy()
        if not under_way:
            return
        first, *later = under_way
        most = self._limits.longest_row or draft.budget
        kept = min(first.remaining, draft.budget - draft.budget // 2, most)
        draft.budget -= kept
        self._admit(draft, partial(_goes_before, under_way))
        for sequence in later:
            if draft.budget:
                self._chunk(draft, sequence)
        draft.budget += kept
        self._chunk(draft, first)

    def _admit(self, draft: Draft, may_begin: _Gate) -> None:
        """The next ones, as long as there is room for them and they `may_begin`.

        Those that need no adapter may pass one that waits for a slot. Those that need one may not:
        they could pin the slots for ever.
        """
        adapters, room = True, self._roster.room
        while draft.budget and self._roster.running < self._limits.max_running:
            sequence = room.peek(adapters=adapters)
            if sequence is None:
                return
            if not self._slots.has_room(sequence.request.adapter):
                adapters = False
                continue
            start = self._placement.head_start(sequence)
            if not may_begin(sequence, start) or not self._has_room(sequence, start):
                return
            self._roster.admit(room.pop(adapters=adapters))
            draft.copies += self._placement.place(sequence, start)
            draft.reused += start.computed
            draft.admitted.append(sequence)
            self._chunk(draft, sequence)

    def _is_not_cut(self, draft: Draft, sequence: Sequence, start: HeadStart) -> bool:
        """All its tokens fit, or there are no other prompts in the step. In the next step it may fit
        whole, where its rest would be one more run of the network.
        """
        prompts = len(draft.rows) > len(self._roster.decoding)
        return not prompts or sequence.remaining - start.computed <= draft.budget

    def _has_room(self, sequence: Sequence, start: HeadStart) -> bool:
        """All its known tokens fit, and each running sequence can still cross into a next page."""
        cost = self._placement.cost(sequence, start)
        return cost + self._roster.running <= self._pages.free or not self._roster.running

    def _chunk(self, draft: Draft, sequence: Sequence) -> None:
        """A row of as many of its known tokens as the limits allow."""
        longest = self._limits.longest_row or draft.budget
        count = min(sequence.remaining, draft.budget, longest)
        draft.rows.append(next_row(sequence, count, self._pages.pages_of(sequence.id)))
        draft.sequences.append(sequence)
        draft.budget -= count

    def _look_ahead(self, draft: Draft) -> None:
        """Let decoding sequences guess with what the budget has left, into pages that are free."""
        decoding = self._roster.decoding
        each = min(self._limits.lookahead, draft.budget // (len(decoding) or 1))
        for sequence in decoding:
            want = min(each, sequence.longest - len(sequence.tokens) - 1)
            if self._limits.short_length and not sequence.long:
                # Beyond it a guess would have to be checked as part of a long text.
                want = min(want, self._limits.short_length - len(sequence.tokens))
            have = sequence.capacity // self._limits.page_size
            missing = self._limits.pages_for(len(sequence.tokens) + want) - have
            if missing > self._pages.free:
                want = sequence.capacity - len(sequence.tokens)
            elif missing > 0:
                self._placement.extend(sequence, missing)
                draft.reserved.append((sequence, missing))
            sequence.row.lookahead = want

    def _check_books(self, draft: Draft) -> None:
        """Only running sequences hold pages, each writes its own, and both records agree."""
        single = 0 if self._limits.lookahead else len(self._roster.decoding)
        self._pages.check_writers(draft.rows, self._limits.page_size, single)
        if len(self._pages.owners) != self._roster.running:
            raise InvariantViolated(
                f"{len(self._pages.owners)} owners hold pages, {self._roster.running} sequences run"
            )
        self._pages.check_books(_ENTRIES_INSPECTED)


def _goes_before(under_way: Seq[Sequence], sequence: Sequence, start: HeadStart) -> bool:
    """It takes less than what is left of any prompt that is under way, and is no less important."""
    tokens, priority = sequence.remaining - start.computed, sequence.request.priority
    return all(tokens < one.remaining and priority <= one.request.priority for one in under_way)


def next_row(sequence: Sequence, count: int, pages: Seq[int]) -> Row:
    """The next `count` tokens that are not computed."""
    tokens, start, sampling = sequence.tokens, sequence.computed, sequence.request.sampling
    last = start + count == len(tokens) < sequence.longest
    return Row(
        sequence_id=sequence.id,
        tokens=tokens[start : start + count],
        start=start,
        pages=pages,
        sampling=sampling if last else None,
        history=tokens,
        prompt_length=len(sequence.request.prompt),
        slot=sequence.slot,
        long=sequence.long,
        scored=sampling.prompt_logprobs if sequence.unscored else None,
    )
