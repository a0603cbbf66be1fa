"""How a sequence comes to its pages: found under their keys, shared with the sequence that it forks
from, or fresh; and how others may find them.

At least one token of a sequence is always computed, for it is the last one's logits that tell how to
go on. So a fork shares the full pages before its prompt's last token. The page where that token
stands has a beginning that is needed and room that both will write: it is copied.
"""

from collections.abc import Sequence as Seq
from typing import NamedTuple

from pitcrew_runtime.core.limits import Limits
from pitcrew_runtime.core.pages import PageAllocator
from pitcrew_runtime.core.sequence import Sequence


class HeadStart(NamedTuple):
    """What need not be computed."""

    pages: Seq[int]
    """Full pages."""
    computed: int
    """Tokens."""
    partial: int | None = None
    """The page that holds those of the tokens that are not in full pages."""


class Placement:
    """Between sequences and the allocator."""

    def __init__(self, limits: Limits, pages: PageAllocator) -> None:
        self._limits = limits
        self._pages = pages

    def head_start(self, sequence: Sequence) -> HeadStart:
        """The most that can be had without computing."""
        if sequence.unscored:
            return HeadStart((), 0)
        parent, common = sequence.parent, len(sequence.request.prompt) - 1
        if parent is not None and _has_begun(parent, sequence, common):
            pages = self._pages.pages_of(parent.id)
            full, rest = divmod(common, self._limits.page_size)
            return HeadStart(pages[:full], common, pages[full] if rest else None)
        found = self._find(sequence) if self._limits.prefix_cache else []
        return HeadStart(found, len(found) * self._limits.page_size)

    def cost(self, sequence: Sequence, start: HeadStart) -> int:
        """Free pages that it takes to place a sequence with all its known tokens."""
        woken = self._pages.idle_among(start.pages)
        return self._limits.pages_for(len(sequence.tokens)) - len(start.pages) + woken

    def place(self, sequence: Sequence, start: HeadStart) -> list[tuple[int, int]]:
        """Give a sequence pages for all its known tokens; the (from, to) pages to be copied."""
        shared = len(start.pages)
        self._pages.share(sequence.id, start.pages)
        self.extend(sequence, self._limits.pages_for(len(sequence.tokens)) - shared)
        sequence.computed = start.computed
        sequence.published = shared
        if start.partial is None:
            return []
        return [(start.partial, self._pages.pages_of(sequence.id)[shared])]

    def extend(self, sequence: Sequence, count: int) -> None:
        """Give it that many pages more."""
        self._pages.extend(sequence.id, count)
        self._measure(sequence)

    def shrink(self, sequence: Sequence, count: int) -> None:
        """Take back its last pages."""
        self._pages.shrink(sequence.id, count)
        self._measure(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take back all its pages; what it has computed can be found until the room is needed."""
        self.publish(sequence)
        self._pages.release(sequence.id)
        sequence.computed = sequence.capacity = sequence.published = 0

    def withdraw(self, sequence: Sequence) -> None:
        """Trust nothing that it has computed."""
        self._pages.withdraw(sequence.id)
        sequence.computed = 0

    def publish(self, sequence: Sequence) -> None:
        """Let others find the pages that it has filled."""
        if not self._limits.prefix_cache:
            return
        for index in range(sequence.published, sequence.computed // self._limits.page_size):
            self._pages.publish(sequence.id, index, sequence.chain.key(index, sequence.tokens))
            sequence.published = index + 1

    def _find(self, sequence: Sequence) -> list[int]:
        full = (len(sequence.tokens) - 1) // self._limits.page_size
        return self._pages.find_all(sequence.chain.keys(full, sequence.tokens))

    def _measure(self, sequence: Sequence) -> None:
        sequence.capacity = len(self._pages.pages_of(sequence.id)) * self._limits.page_size


def _has_begun(parent: Sequence, sequence: Sequence, common: int) -> bool:
    """Whether the first `common` tokens lie in the parent's pages, computed as the sequence needs."""
    return parent.running and parent.long == sequence.long and parent.computed >= common
