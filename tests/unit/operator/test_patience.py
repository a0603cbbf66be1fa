"""What waits while there is much to do, and when its turn comes."""

from pitcrew_operator.patience import FREED_AT_ONCE, LONGEST_SECONDS, Patience

BUSY = 2.0


class Line:
    """Patience, its clock, and the keys that it brought back."""

    def __init__(self) -> None:
        self.now, self.back = 0.0, list[str]()
        self.patience = Patience[str](BUSY, self.back.append, lambda: self.now)

    def work(self, passes: int, seconds: float = 10.0) -> None:
        """So many passes are under way for so long."""
        if passes == 0:
            self.now += seconds
            return
        with self.patience.passing(f"other-{passes}"):
            self.work(passes - 1, seconds)

    def make_up(self, key: str) -> bool:
        """A pass over a key: whether what can wait has to."""
        with self.patience.passing(key):
            return self.patience.may_wait(key)


def test_with_little_to_do_nothing_waits() -> None:
    line = Line()
    line.work(1)
    assert not line.patience.may_wait("a")
    line.patience.free()
    assert line.back == []


def test_what_waits_comes_back_once_there_is_time_and_waits_no_more() -> None:
    line = Line()
    line.work(4)
    assert line.patience.may_wait("a")
    line.patience.free()
    assert line.back == []
    line.work(0)
    line.patience.free()
    assert line.back == ["a"]
    line.work(4)
    assert not line.make_up("a"), "it had its turn"
    assert line.make_up("a"), "and waits again with what is new"


def test_a_short_crowd_is_no_reason_to_wait() -> None:
    line = Line()
    line.work(4, seconds=0.1)
    assert not line.patience.may_wait("a")


def test_nobody_waits_for_longer_than_a_minute() -> None:
    line = Line()
    line.work(4)
    assert line.patience.may_wait("a")
    line.work(4, seconds=LONGEST_SECONDS / 2)
    assert line.patience.may_wait("a"), "the first time counts"
    assert line.patience.may_wait("b")
    line.work(4, seconds=LONGEST_SECONDS / 2)
    line.patience.free()
    assert line.back == ["a"]


def test_not_all_come_back_at_once() -> None:
    line = Line()
    line.work(4)
    for number in range(FREED_AT_ONCE + 1):
        line.patience.may_wait(str(number))
    line.work(0)
    line.patience.free()
    assert len(line.back) == FREED_AT_ONCE
    line.patience.free()
    assert len(line.back) == FREED_AT_ONCE + 1


def test_making_up_keeps_nobody_waiting() -> None:
    line = Line()
    line.work(4)
    line.patience.may_wait("a")
    line.work(0)
    line.patience.free()
    with line.patience.passing("a"):
        line.now += 10
        assert not line.patience.is_busy


def test_what_is_gone_does_not_come_back() -> None:
    line = Line()
    line.work(4)
    line.patience.may_wait("a")
    line.patience.forget("a")
    line.work(0)
    line.patience.free()
    assert line.back == []
