"""How far a build is: phases share one bar by their usual cost, bytes move it inside a phase."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from pitcrew_builder.report import Phase, Progress

Sink: TypeAlias = Callable[[Progress], None]
"""Shows one step of progress."""

_ENDS = {
    Phase.RESOLVE: 30,
    Phase.PARSE: 32,
    Phase.GRAPH: 34,
    Phase.OPTIMIZE: 35,
    Phase.QUANTIZE: 55,
    Phase.SERIALIZE: 85,
    Phase.VALIDATE: 96,
    Phase.PUBLISH: 100,
}
"""Percent of the whole build at which each phase ends."""


def part_of(advance: Callable[[float], None], index: int, count: int) -> Callable[[float], None]:
    """What tells of the part `index` of `count` as if it were the whole."""
    return lambda fraction: advance((index + fraction) / count)


class Tracker:
    """Follows one build: tells the sink of each new percent and keeps the seconds of each phase."""

    def __init__(self, sink: Sink, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._clock = clock
        self._window = (Phase.RESOLVE, 0, 0)
        self._shown = (Phase.RESOLVE, -1)
        self._started = clock()
        self.timings: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds since the build began."""
        return self._clock() - self._started

    @contextmanager
    def phase(self, phase: Phase, message: str = "") -> Iterator[None]:
        """Enter a phase; at its end the bar stands where the phase ends."""
        self._window = (phase, self._window[2], _ENDS[phase])
        began = self._clock()
        self.advance(0.0, message)
        yield
        self.timings[phase.value] = round(self._clock() - began, 6)
        self.advance(1.0)

    @contextmanager
    def part(self, index: int, count: int) -> Iterator[None]:
        """Inside, the current phase's progress moves within the part `index` of `count`."""
        phase, start, end = whole = self._window
        width = end - start
        self._window = (phase, start + width * index // count, start + width * (index + 1) // count)
        yield
        self._window = whole

    def advance(self, fraction: float, message: str = "") -> None:
        """Say that `fraction` (0 to 1) of the current phase is done."""
        phase, start, end = self._window
        percent = start + int((end - start) * min(max(fraction, 0.0), 1.0))
        percent = max(percent, self._shown[1])
        if (phase, percent) != self._shown:
            self._shown = (phase, percent)
            self._sink(Progress(phase=phase, percent=percent, message=message))

    def counter(self, total: int, message: str = "") -> Callable[[int], None]:
        """A callback that advances the phase by amounts that sum up to `total`."""
        done = 0

        def add(amount: int) -> None:
            nonlocal done
            done += amount
            self.advance(done / total if total else 1.0, message)

        return add
