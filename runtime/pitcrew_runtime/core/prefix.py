"""Which full pages hold which tokens, so that a prompt that begins like another one skips its start.

A page's key is the hash of its tokens and of the key of the page before it; the first is chained to
a root made of all that decides keys and values beside the tokens, and of the tenant: two tenants
never meet in one page, so nobody can tell from a fast answer what others have asked. SHA-256, as a
collision would be a wrong answer. The file knows neither owners nor tensors.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from struct import pack

from pitcrew_runtime.errors import InvariantViolated

Key = bytes


def root_key(*salts: str) -> Key:
    """The key before the first page. Lengths are hashed too, so no two lists of salts run together."""
    return sha256(repr(salts).encode()).digest()


class KeyChain:
    """The keys of one sequence's full pages, made when they are asked for."""

    __slots__ = ("_format", "_keys", "_page_size", "_root")

    def __init__(self, root: Key, page_size: int) -> None:
        self._root = root
        self._page_size = page_size
        self._format = f"<{page_size}I"
        self._keys: list[Key] = []

    def apart(self) -> "KeyChain":
        """Of the same tokens, computed in another way: it has no key in common with this one."""
        return KeyChain(sha256(self._root + b"apart").digest(), self._page_size)

    def adopt(self, other: "KeyChain", tokens: int) -> None:
        """Take over what keys another chain has of pages within so many tokens, equal in both.

        Nothing where the two differ in what else decides them.
        """
        count = tokens // self._page_size
        if self._root == other._root and len(self._keys) < count:
            self._keys = other._keys[:count]

    def key(self, index: int, tokens: Sequence[int]) -> Key:
        """Of page `index`, which `tokens`, the sequence's from its start, must fill."""
        size = self._page_size
        while len(self._keys) <= index:
            begin = len(self._keys) * size
            page = tokens[begin : begin + size]
            if len(page) < size:
                raise ValueError(f"page {len(self._keys)} is not full")
            before = self._keys[-1] if self._keys else self._root
            self._keys.append(sha256(before + pack(self._format, *page)).digest())
        return self._keys[index]

    def keys(self, count: int, tokens: Sequence[int]) -> Iterator[Key]:
        """Of the first `count` pages, each made when it is reached."""
        made = self._keys[:count]
        yield from made
        for index in range(len(made), count):
            yield self.key(index, tokens)


class PrefixIndex:
    """Keys and pages, one to one; and which of the pages are idle, the longest unused first.

    Whoever holds a page holds the pages before it, and gives them back last to first. So the order
    of idle pages has each page before the one that it continues: what is evicted is a leaf.
    """

    def __init__(self) -> None:
        self._page_of: dict[Key, int] = {}
        self._key_of: dict[int, Key] = {}
        self._idle: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._page_of)

    def __contains__(self, page: int) -> bool:
        return page in self._key_of

    @property
    def idle(self) -> int:
        """Pages that are kept for their contents alone."""
        return len(self._idle)

    def find(self, key: Key) -> int | None:
        """The page of a key."""
        return self._page_of.get(key)

    def find_all(self, keys: Iterable[Key]) -> list[int]:
        """The pages of keys, up to the first that has none."""
        found: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def put(self, key: Key, page: int) -> None:
        """Tell of a page's contents; neither may be known yet."""
        if key in self._page_of or page in self._key_of:
            raise InvariantViolated(f"page {page} or its key stands in the prefix index already")
        self._page_of[key] = page
        self._key_of[page] = key

    def is_idle(self, page: int) -> bool:
        """Nobody holds it."""
        return page in self._idle

    def idle_among(self, pages: Iterable[int]) -> int:
        """How many of these nobody holds."""
        return sum(map(self._idle.__contains__, pages))

    def rest(self, page: int) -> None:
        """Its last holder has let go of a page: it may be evicted after those that rest already."""
        self._idle[page] = None

    def wake(self, page: int) -> None:
        """Somebody holds a page again."""
        del self._idle[page]

    def forget(self, page: int) -> None:
        """Nobody finds a page any more that somebody holds."""
        del self._page_of[self._key_of.pop(page)]

    def evict(self) -> int:
        """Forget the page that rests longest, and return it."""
        page = next(iter(self._idle))
        del self._idle[page]
        del self._page_of[self._key_of.pop(page)]
        return page

    def audit(self, held: Sequence[Iterable[int]]) -> None:
        """Compare with each page's holders; raises `InvariantViolated`."""
        if {key: page for page, key in self._key_of.items()} != self._page_of:
            raise InvariantViolated("the prefix index has keys and pages that do not match")
        for page in self._key_of:
            if bool(held[page]) == (page in self._idle):
                raise InvariantViolated(f"page {page} is held and idle, or neither")
        if not self._idle.keys() <= self._key_of.keys():
            raise InvariantViolated("a page without known contents rests in the prefix index")
