import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitcrew_runtime.core.pages import OutOfPages, PageAllocator
from pitcrew_runtime.errors import InvariantViolated


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
    with pytest.raises(InvariantViolated, match=r"held by \[1, 2\]"):
        pages.check_exclusive(1, pages.pages_of(1))
    pages.release(1)
    assert pages.free == 2
    pages.check_exclusive(2, pages.pages_of(2))
    pages.release(2)
    assert pages.free == 4


def test_free_pages_cannot_be_shared_or_written() -> None:
    pages = PageAllocator(2)
    with pytest.raises(InvariantViolated, match="page 1 is free"):
        pages.share(7, [1])
    with pytest.raises(InvariantViolated, match="page 0 is to be written by 7"):
        pages.check_exclusive(7, [0])


def test_shrink_takes_the_last_pages() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 3)
    first = pages.pages_of(1)[0]
    pages.shrink(1, 2)
    assert list(pages.pages_of(1)) == [first]
    pages.shrink(1, 1)
    assert not list(pages.owners)


def test_audit_notices_a_page_in_two_tables() -> None:
    pages = PageAllocator(4)
    pages.extend(1, 2)
    pages.extend(2, 1)
    pages._table[2].append(pages._table[1][0])
    with pytest.raises(InvariantViolated, match="differ"):
        pages.audit()


@given(st.lists(st.tuples(st.sampled_from("esrx"), st.integers(0, 4), st.integers(0, 3))))
def test_books_agree_after_any_life(life: list[tuple[str, int, int]]) -> None:
    pages = PageAllocator(9)
    for action, owner, count in life:
        held = list(pages.pages_of(owner))
        if action == "e" and count <= pages.free:
            pages.extend(owner, count)
        elif action == "s":
            pages.share(owner, [p for p in pages.pages_of((owner + 1) % 5) if p not in held])
        elif action == "r":
            pages.release(owner)
        elif action == "x":
            pages.shrink(owner, min(count, len(held)))
        pages.audit()
        assert pages.free + pages.used == 9
    for owner in range(5):
        pages.release(owner)
    assert pages.free == 9
