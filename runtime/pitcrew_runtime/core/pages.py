"""Who holds which page of the KV pool.

Two records are kept: the table (owner -> its pages, in the order of its tokens) and the holders of
each page. They must tell the same story: before a step writes into a page, `check_writers` asks
the second record whether the first is right, so a bookkeeping fault ends the step and cannot put
one sequence's keys under another's eyes. Pages are counted by reference: `share` lets a second
owner read what the first has written, and from then on nobody writes it. Full pages may be
published under a key (`prefix`); they outlive their owners until the room is needed. The file
knows no tensor and no scheduler.
"""

from collections.abc import Collection, Iterable, Sequence

from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.prefix import Key, PrefixIndex
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
        self._writer: list[int | None] = [None] * total
        self._references = 0
        self._published = PrefixIndex()
        self._uninspected: list[int] = []
        self._inspected = 0

    @property
    def free(self) -> int:
        """Pages that nobody holds, those that are kept for their contents among them."""
        return len(self._free) + self._published.idle

    @property
    def used(self) -> int:
        """Pages with at least one owner."""
        return self.total - self.free

    @property
    def cached(self) -> int:
        """Published pages that nobody holds."""
        return self._published.idle

    @property
    def owners(self) -> Collection[int]:
        """Everyone who holds pages."""
        return self._table.keys()

    def pages_of(self, owner: int) -> Sequence[int]:
        """The owner's pages in token order: a live view for as long as it holds any."""
        return self._table.get(owner, ())

    def extend(self, owner: int, count: int) -> None:
        """Give `owner` that many more pages of its own, or raise `OutOfPages` and change nothing."""
        if count > self.free:
            raise OutOfPages(f"{count} pages wanted, {self.free} of {self.total} free")
        for _ in range(count):
            page = self._free.pop() if self._free else self._published.evict()
            self._hold(owner, page)
            self._writer[page] = owner

    def share(self, owner: int, pages: Iterable[int]) -> None:
        """Let `owner` read pages that others hold or that are published; nobody may write them."""
        for page in pages:
            if self._published.is_idle(page):
                self._published.wake(page)
            elif not self._holders[page]:
                raise InvariantViolated(f"page {page} is free and cannot be shared with {owner}")
            self._hold(owner, page)
            self._writer[page] = None

    def shrink(self, owner: int, count: int) -> None:
        """Take back the owner's last `count` pages."""
        pages = self._table.get(owner, [])
        for _ in range(count):
            self._drop(owner, pages.pop())
        if not pages:
            self._table.pop(owner, None)

    def release(self, owner: int) -> None:
        """Take back everything that `owner` holds, last page first: see `PrefixIndex`."""
        for page in reversed(self._table.pop(owner, [])):
            self._drop(owner, page)

    def find(self, key: Key) -> int | None:
        """The page that was published under a key and still has its contents."""
        return self._published.find(key)

    def find_all(self, keys: Iterable[Key]) -> list[int]:
        """The pages of the first keys, up to one under which there is none."""
        return self._published.find_all(keys)

    def idle_among(self, pages: Iterable[int]) -> int:
        """How many of these nobody holds: they are published, and count as free."""
        return self._published.idle_among(pages)

    def publish(self, owner: int, index: int, key: Key) -> None:
        """Tell that the owner's page `index` is full, and of what.

        Where another page has these contents already, the owner gets that one and gives back its
        own.
        """
        pages = self._table[owner]
        known = self._published.find(key)
        if known == pages[index]:
            return
        if known is None:
            self._published.put(key, pages[index])
            self._writer[pages[index]] = None
            return
        mine = pages[index]
        self.share(owner, (known,))
        pages[index] = pages.pop()
        self._drop(owner, mine)

    def withdraw(self, owner: int) -> None:
        """Let nobody find any page of the owner any more."""
        for page in self._table.get(owner, ()):
            if page in self._published:
                self._published.forget(page)

    def check_writers(self, rows: Sequence[Row], page_size: int, single: int = 0) -> None:
        """Raise `InvariantViolated` unless each page that a row writes is its owner's alone.

        The first `single` rows write one token each: they are looked through faster.
        """
        writer = self._writer
        for row in rows[:single]:
            if writer[row.pages[row.start // page_size]] != row.sequence_id:
                self._deny(row.sequence_id, row.pages[row.start // page_size])
        for row in rows[single:]:
            for index in range(row.start // page_size, -(-(row.end + row.lookahead) // page_size)):
                if writer[row.pages[index]] != row.sequence_id:
                    self._deny(row.sequence_id, row.pages[index])

    def check_books(self, inspected: int) -> None:
        """Compare the two records cheaply; raises `InvariantViolated`.

        Every call compares their totals, and that many entries of the table with the holders, in
        turn: an owner's pages one after the other, then those of the next.
        """
        table, holders = self._table, self._holders
        if sum(map(len, table.values())) != self._references:
            raise InvariantViolated("the page table and the pages' holders differ in number")
        if not self._uninspected:
            self._uninspected = list(table)
            return
        owner, begin = self._uninspected[-1], self._inspected
        pages = table.get(owner, [])[begin : begin + inspected]
        if wrong := [page for page in pages if owner not in holders[page]]:
            raise InvariantViolated(f"{owner} has page {wrong[0]} in its table only")
        self._inspected += inspected
        if len(pages) < inspected:
            self._uninspected.pop()
            self._inspected = 0

    def audit(self) -> None:
        """Compare all records over the whole pool; O(pages). Raises `InvariantViolated`."""
        told: list[set[int]] = [set() for _ in range(self.total)]
        for owner, pages in self._table.items():
            for page in pages:
                told[page].add(owner)
        if told != self._holders:
            raise InvariantViolated("the page table and the pages' holders differ")
        if sum(map(len, told)) != self._references:
            raise InvariantViolated("the references are miscounted")
        unheld = [p for p in range(self.total) if not told[p] and p not in self._published]
        if sorted(self._free) != unheld:
            raise InvariantViolated("the free list is not the pages without an owner")
        for page, writer in enumerate(self._writer):
            if writer is not None and (told[page] != {writer} or page in self._published):
                raise InvariantViolated(f"page {page} can be written by {writer}, not alone")
        self._published.audit(self._holders)

    def _hold(self, owner: int, page: int) -> None:
        holders = self._holders[page]
        if owner in holders:
            raise InvariantViolated(f"{owner} already holds page {page}")
        holders.add(owner)
        self._references += 1
        self._table.setdefault(owner, []).append(page)

    def _drop(self, owner: int, page: int) -> None:
        holders = self._holders[page]
        if owner not in holders:
            raise InvariantViolated(f"{owner} gives back page {page}, which it does not hold")
        holders.remove(owner)
        self._references -= 1
        if holders:
            return
        self._writer[page] = None
        if page in self._published:
            self._published.rest(page)
        else:
            self._free.append(page)

    def _deny(self, owner: int, page: int) -> None:
        raise InvariantViolated(
            f"page {page} is to be written by {owner} but is held by {sorted(self._holders[page])}"
        )
