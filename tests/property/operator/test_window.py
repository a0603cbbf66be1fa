"""When a window of hours is open: by arithmetic, against a walk through every minute."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pitcrew_operator.api.policy import Day, Window
from pitcrew_operator.plan.window import until_open

HOURS = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.integers(0, 59))
WINDOWS = st.builds(
    Window,
    start=HOURS,
    end=HOURS,
    days=st.lists(st.sampled_from(Day), unique=True).map(tuple),
)
MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)


def is_open(window: Window, moment: datetime) -> bool:
    """By definition: a window of today or of yesterday covers the moment."""
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (window.start, window.end))
    length = end - start if end > start else end - start + 24 * 60
    names = list(Day)
    for days in (0, 1):
        day = moment - timedelta(days=days)
        if window.days and names[day.weekday()] not in window.days:
            continue
        since = moment.hour * 60 + moment.minute + 24 * 60 * days - start
        if 0 <= since < length:
            return True
    return False


@given(WINDOWS, MOMENTS)
def test_no_wait_means_open_and_open_means_no_wait(window: Window, now: datetime) -> None:
    assert (until_open(window, now) == timedelta()) == is_open(window, now)


@given(WINDOWS, MOMENTS)
def test_the_wait_ends_when_it_opens_and_not_later(window: Window, now: datetime) -> None:
    wait = until_open(window, now)
    assert timedelta() <= wait <= timedelta(days=8)
    if wait:
        opening = now + wait
        assert is_open(window, opening)
        assert not is_open(window, opening - timedelta(minutes=1))
