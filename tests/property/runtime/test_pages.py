"""The page allocator against a model that remembers every word that was written."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.pages import OutOfPages, PageAllocator
from pitcrew_runtime.core.prefix import KeyChain, root_key
from pitcrew_runtime.errors import InvariantViolated

PAGES = 10
SIZE = 2
WORDS = st.integers(0, 1)
"""Few, so that beginnings are often alike."""


class Books(RuleBasedStateMachine):
    """Owners write, fork, find beginnings, publish, give back and are preempted."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = PageAllocator(PAGES)
        self.memory: dict[tuple[int, int], int] = {}
        """(page, offset) -> word: what a real pool would hold."""
        self.texts: dict[int, list[int]] = {}
        self.tenant: dict[int, str] = {}
        self.count = 0

    @rule(tenant=st.sampled_from("xy"), words=st.lists(WORDS, min_size=1, max_size=8))
    def begin(self, tenant: str, words: list[int]) -> None:
        """A sequence starts with the pages that others have filled with the same words."""
        owner = self._newcomer(tenant)
        chain, found = self._chain(owner), []
        for index in range((len(words) - 1) // SIZE):
            page = self.pages.find(chain.key(index, words))
            if page is None:
                break
            found.append(page)
        self.pages.share(owner, found)
        self.texts[owner] = words[: len(found) * SIZE]
        self._write(owner, words[len(found) * SIZE :])

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), words=st.lists(WORDS, min_size=1, max_size=3))
    def go_on(self, data: st.DataObject, words: list[int]) -> None:
        """One writes more words, guesses perhaps, and keeps some."""
        owner = self._somebody(data)
        self._write(owner, words)
        if owner in self.texts:
            kept = data.draw(st.integers(0, len(words)))
            del self.texts[owner][len(self.texts[owner]) - len(words) + kept :]
            held = len(self.pages.pages_of(owner))
            self.pages.shrink(owner, held - -(-len(self.texts[owner]) // SIZE))
            if not self.texts[owner]:
                self._leave(owner)

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """A copy shares full pages; the last, partly filled one is copied."""
        parent = self._somebody(data)
        text = self.texts[parent]
        full, rest = divmod(len(text), SIZE)
        if self.pages.free < bool(rest):
            return
        child = self._newcomer(self.tenant[parent])
        self.texts[child] = list(text)
        self.pages.share(child, self.pages.pages_of(parent)[:full])
        if rest:
            self.pages.extend(child, 1)
            source, target = (self.pages.pages_of(one)[full] for one in (parent, child))
            for offset in range(rest):
                self.memory[target, offset] = self.memory[source, offset]

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        """What one has filled can be found."""
        owner = self._somebody(data)
        chain, text = self._chain(owner), self.texts[owner]
        for index in range(len(text) // SIZE):
            self.pages.publish(owner, index, chain.key(index, text))

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """One ends or is preempted."""
        self._leave(self._somebody(data))

    @precondition(lambda self: len(self.texts) > 1)
    @rule(data=st.data())
    def trespass(self, data: st.DataObject) -> None:
        """Writing where somebody else reads is noticed before it happens."""
        owner, other = data.draw(st.permutations(sorted(self.texts)))[:2]
        row = Row(owner, [0], 0, self.pages.pages_of(other), None)
        with pytest.raises(InvariantViolated, match="is to be written by"):
            self.pages.check_writers([row], SIZE)

    @invariant()
    def every_owner_reads_its_own_text(self) -> None:
        for owner, text in self.texts.items():
            pages = self.pages.pages_of(owner)
            read = [self.memory[pages[at // SIZE], at % SIZE] for at in range(len(text))]
            assert read == text
            assert len(pages) == -(-len(text) // SIZE)

    @invariant()
    def the_books_agree(self) -> None:
        self.pages.audit()
        self.pages.check_books(3)
        assert set(self.pages.owners) == {owner for owner, text in self.texts.items() if text}
        assert self.pages.free + self.pages.used == PAGES

    @invariant()
    def what_can_be_found_can_be_reached(self) -> None:
        """Nothing lies in the cache whose beginning has been evicted: leaves go first."""
        known = self.pages._published._page_of
        reached, ends = set(), {root_key(tenant): [] for tenant in "xy"}
        while ends:
            before, words = ends.popitem()
            for more in ([0, 0], [0, 1], [1, 0], [1, 1]):
                text = [*words, *more]
                key = KeyChain(before, SIZE).key(0, more)
                if key in known:
                    reached.add(key)
                    ends[key] = text
        assert reached == set(known)

    def teardown(self) -> None:
        for owner in list(self.texts):
            self._leave(owner)
        assert self.pages.free == PAGES

    def _newcomer(self, tenant: str) -> int:
        self.count += 1
        self.tenant[self.count] = tenant
        return self.count

    def _somebody(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.texts)))

    def _chain(self, owner: int) -> KeyChain:
        return KeyChain(root_key(self.tenant[owner]), SIZE)

    def _write(self, owner: int, words: list[int]) -> None:
        """Check, then write: as a step does. Without room the owner gives up what it has."""
        start = len(self.texts[owner])
        held = len(self.pages.pages_of(owner))
        try:
            self.pages.extend(owner, -(-(start + len(words)) // SIZE) - held)
        except OutOfPages:
            self._leave(owner)
            return
        row = Row(owner, words, start, self.pages.pages_of(owner), None)
        try:
            self.pages.check_writers([row], SIZE)
        except InvariantViolated:
            # Its last page is read by a fork or was published: a step never asks for that.
            assert start % SIZE
            self._leave(owner)
            return
        for at, word in enumerate(words, start):
            self.memory[row.pages[at // SIZE], at % SIZE] = word
        self.texts[owner] = [*self.texts[owner], *words]

    def _leave(self, owner: int) -> None:
        self.pages.release(owner)
        del self.texts[owner]


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
