"""Who holds which page of the KV pool.

Two records are kept: the table (owner -> its pages, in the order of its tokens) and the holders of
each page. They must tell the same story: before a step writes into a page, `check_exclusive` asks
the second record whether the first is right, so a bookkeeping fault ends the step and cannot put
one sequence's keys under another's eyes. Pages are counted by reference: `share` lets a second
owner read what the first has written. The file knows no tensor and no scheduler.
"""

from collections.abc import Collection, Iterable, Sequence

from pitcrew_runtime.errors import InvariantViolated


class OutOfPages(Exception):
    """Fewer pages are free than were asked for."""


class PageAllocator:
    """A pool of `total` pages, numbered from 0."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"pages: {total}; a pool needs at least one page")
        self.total = total
        self._free = list(range(total - 1, -1, -1))
        self._table: dict[int, list[int]] = {}
        self._holders: list[set[int]] = [set() for _ in range(total)]

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Pages with at least one owner."""
        return self.total - len(self._free)

    @property
    def owners(self) -> Collection[int]:
        """Everyone who holds pages."""
        return self._table.keys()

    def pages_of(self, owner: int) -> Sequence[int]:
        """The owner's pages in token order: a live view, stable while nothing is allocated."""
        return self._table.get(owner, ())

    def extend(self, owner: int, count: int) -> None:
        """Give `owner` that many more pages of its own, or raise `OutOfPages` and change nothing."""
        if count > len(self._free):
            raise OutOfPages(f"{count} pages wanted, {len(self._free)} of {self.total} free")
        for page in [self._free.pop() for _ in range(count)]:
            self._hold(owner, page)

    def share(self, owner: int, pages: Iterable[int]) -> None:
        """Let `owner` read pages that others hold; they are freed when the last owner lets go."""
        for page in pages:
            if not self._holders[page]:
                raise InvariantViolated(f"page {page} is free and cannot be shared with {owner}")
            self._hold(owner, page)

    def shrink(self, owner: int, count: int) -> None:
        """Take back the owner's last `count` pages."""
        pages = self._table.get(owner, [])
        for _ in range(count):
            self._drop(owner, pages.pop())
        if not pages:
            self._table.pop(owner, None)

    def release(self, owner: int) -> None:
        """Take back everything that `owner` holds."""
        for page in reversed(self._table.pop(owner, [])):
            self._drop(owner, page)

    def check_exclusive(self, owner: int, pages: Iterable[int]) -> None:
        """Raise `InvariantViolated` unless each page has this owner and no other."""
        for page in pages:
            holders = self._holders[page]
            if len(holders) != 1 or owner not in holders:
                raise InvariantViolated(
                    f"page {page} is to be written by {owner} but is held by {sorted(holders)}"
                )

    def audit(self) -> None:
        """Compare both records over the whole pool; O(pages). Raises `InvariantViolated`."""
        told: list[set[int]] = [set() for _ in range(self.total)]
        for owner, pages in self._table.items():
            for page in pages:
                told[page].add(owner)
        if told != self._holders:
            raise InvariantViolated("the page table and the pages' holders differ")
        if sorted(self._free) != [page for page in range(self.total) if not told[page]]:
            raise InvariantViolated("the free list is not the pages without an owner")

    def _hold(self, owner: int, page: int) -> None:
        holders = self._holders[page]
        if owner in holders:
            raise InvariantViolated(f"{owner} already holds page {page}")
        holders.add(owner)
        self._table.setdefault(owner, []).append(page)

    def _drop(self, owner: int, page: int) -> None:
        holders = self._holders[page]
        if owner not in holders:
            raise InvariantViolated(f"{owner} gives back page {page}, which it does not hold")
        holders.remove(owner)
        if not holders:
            self._free.append(page)
