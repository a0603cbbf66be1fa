"""GPU usage as the status tells it: in coarse steps, as every change of it is a write."""

from typing import Final

_STEP: Final = 5


def told(before: int | None, percent: float | None) -> int | None:
    """A multiple of 5 percent; the one told before, unless usage is a whole step away from it."""
    if percent is None or before is None or abs(percent - before) >= _STEP:
        return None if percent is None else _STEP * round(percent / _STEP)
    return before
