"""Hours in which builds may begin: a window of UTC hours that opens on certain days."""

from datetime import UTC, datetime, time, timedelta

from pitcrew_operator.api.policy import Day, Window

_DAYS = tuple(Day)


def until_open(window: Window, now: datetime) -> timedelta:
    """How long until builds may begin; zero while they may. Never longer than eight days."""
    now = now.astimezone(UTC)
    # A window that opened yesterday may reach into today; one that opened earlier cannot.
    for offset in range(-1, 8):
        opens, closes = _on(window, now, offset)
        if _opens_on(window, opens) and now < closes:
            return max(opens - now, timedelta())
    raise AssertionError("a window opens on at least one day of a week")


def _opens_on(window: Window, opens: datetime) -> bool:
    return not window.days or _DAYS[opens.weekday()] in window.days


def _on(window: Window, now: datetime, offset: int) -> tuple[datetime, datetime]:
    """When the window of that day opens and closes."""
    day = (now + timedelta(days=offset)).date()
    opens = datetime.combine(day, time.fromisoformat(window.start), UTC)
    closes = datetime.combine(day, time.fromisoformat(window.end), UTC)
    return opens, closes if closes > opens else closes + timedelta(days=1)
