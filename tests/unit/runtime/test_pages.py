import pytest

from pitcrew_runtime.core.batch import Row
from pitcrew_runtime.core.pages import OutOfPages, PageAllocator
from pitcrew_runtime.core.prefix import KeyChain, root_key
from pitcrew_runtime.errors import InvariantViolated


def writing(owner: int, pages: PageAllocator, start: int, count: int) -> list[Row]:
    return [Row(owner, [0] * count, start, pages.pages_of(owner), None)]


def test_extend_is_all_or_nothing() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 3)
    with pytest.raises(OutOfPages, match="2 pages wanted, 1 of 4 free"):
        pages.extend(2, 2)
    assert (pages.free, list(pages.pages_of(2))) == (1, [])


def test_a_shared_page_is_freed_with_its_last_owner() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 2)
    pages.share(2, list(pages.pages_of(1)))
    pages.release(1)
    assert pages.free == 2
    pages.release(2)
    assert pages.free == 4


def test_a_page_is_written_by_its_only_owner_or_by_nobody() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 2)
    pages.check_writers(writing(1, pages, 0, 8), page_size=4)
    pages.share(2, pages.pages_of(1)[:1])
    pages.check_writers(writing(1, pages, 4, 4), page_size=4)
    with pytest.raises(InvariantViolated, match=r"written by 1 but is held by \[1, 2\]"):
        pages.check_writers(writing(1, pages, 3, 1), page_size=4)
    pages.release(1)
    with pytest.raises(InvariantViolated, match=r"written by 2 but is held by \[2\]"):
        pages.check_writers(writing(2, pages, 0, 1), page_size=4)


def test_the_pages_of_guesses_are_checked_too() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 1)
    pages.extend(2, 1)
    pages.share(1, pages.pages_of(2))
    (row,) = writing(1, pages, 3, 1)
    pages.check_writers([row], page_size=4)
    row.lookahead = 1
    with pytest.raises(InvariantViolated, match="written by 1"):
        pages.check_writers([row], page_size=4)


def test_free_pages_cannot_be_shared() -> None:
    pages = PageAllocator(2)
    with pytest.raises(InvariantViolated, match="page 1 is free"):
        pages.share(7, [1])


def test_shrink_takes_the_last_pages() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 3)
    first = pages.pages_of(1)[0]
    pages.shrink(1, 2)
    assert list(pages.pages_of(1)) == [first]
    pages.shrink(1, 1)
    assert not list(pages.owners)


def test_published_pages_outlive_their_owner_until_the_room_is_needed() -> None:
    pages = PageAllocator(3)
    chain = KeyChain(root_key(), 2)
    keys = [chain.key(index, [5, 6, 7, 8]) for index in range(2)]
    pages.extend(1, 3)
    for index, key in enumerate(keys):
        pages.publish(1, index, key)
    kept = list(pages.pages_of(1))
    pages.release(1)
    assert (pages.free, pages.cached) == (3, 2)
    assert [pages.find(key) for key in keys] == kept[:2]
    pages.extend(2, 2)
    assert pages.find(keys[0]) == kept[0], "the beginning is worth more than what continues it"
    assert pages.find(keys[1]) is None
    pages.audit()


def test_a_beginning_is_found_as_far_as_it_is_known() -> None:
    """And no key is made beyond that: a prompt may have very many."""
    pages, tokens = PageAllocator(4), range(8)
    pages.extend(1, 3)
    for index in (0, 1, 3):
        pages.publish(1, min(index, 2), KeyChain(root_key(), 2).key(index, tokens))
    pages.extend(2, 1)
    pages.share(2, pages.pages_of(1)[:1])
    found = pages.find_all(KeyChain(root_key(), 2).keys(1000, tokens))
    assert found == list(pages.pages_of(1)[:2])
    assert pages.idle_among(found) == 0
    pages.release(1)
    assert pages.idle_among(found) == 1, "somebody holds the other one"


def test_equal_contents_end_up_in_one_page() -> None:
    pages = PageAllocator(4)
    key = KeyChain(root_key(), 1).key(0, [5])
    pages.extend(1, 2)
    pages.extend(2, 2)
    pages.publish(1, 0, key)
    own = pages.pages_of(2)[1]
    pages.publish(2, 0, key)
    assert list(pages.pages_of(2)) == [pages.pages_of(1)[0], own]
    assert pages.free == 1
    pages.audit()


def test_keys_tell_tenants_engines_adapters_and_beginnings_apart() -> None:
    def key(*salts: str, tokens: tuple[int, ...] = (1, 2, 3, 4)) -> bytes:
        return KeyChain(root_key(*salts), 2).key(1, tokens)

    others = [
        key("e", "", "b"),
        key("e", "b", ""),
        key("eb", "", ""),
        key("e", "", "", tokens=(9, 2, 3, 4)),
        key("e", "", "", tokens=(1, 2, 3, 9)),
    ]
    assert len({key("e", "", ""), *others}) == 6
    with pytest.raises(ValueError, match="page 2 is not full"):
        KeyChain(root_key(), 2).key(2, (1, 2, 3, 4, 5))


def test_keys_are_taken_over_from_a_text_that_begins_alike() -> None:
    text = (1, 2, 3, 4, 5, 6)
    whole, fork, stranger = (KeyChain(root_key(salt), 2) for salt in ("", "", "another"))
    keys = list(whole.keys(3, text))
    fork.adopt(whole, 5)
    assert list(fork.keys(2, ())) == keys[:2], "no token is looked at"
    assert fork.key(2, (1, 2, 3, 4, 5, 7)) != keys[2]
    for one in (stranger, whole.apart()):
        one.adopt(whole, 6)
        with pytest.raises(ValueError, match="page 0 is not full"):
            one.key(0, ())


def test_audit_notices_a_page_in_two_tables() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 2)
    pages.extend(2, 1)
    pages._table[2].append(pages._table[1][0])
    with pytest.raises(InvariantViolated, match="differ"):
        pages.audit()
    with pytest.raises(InvariantViolated, match="differ in number"):
        pages.check_books(1)


def test_every_entry_of_the_table_is_inspected_in_turn() -> None:
    pages = PageAllocator(64)
    for owner in range(8):
        pages.extend(owner, 8)
    pages._table[0][3], pages._table[1][3] = pages._table[1][3], pages._table[0][3]
    inspecting = range(1 + 8 * 3)
    with pytest.raises(InvariantViolated, match=r"has page \d+ in its table only"):
        any(pages.check_books(4) for _ in inspecting)
