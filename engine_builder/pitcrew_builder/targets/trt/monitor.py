"""A compiler's nested phases as one fraction, and the wish to stop as its answer."""

from collections.abc import Callable
from threading import Event, Lock

from pitcrew_builder.targets.trt.library import Native


class PhaseTree:
    """Phases that hold phases; a phase's steps are equal parts of it.

    Fed by names as TensorRT gives them: a name is unique among the phases that run.
    """

    def __init__(self) -> None:
        self._open: dict[str, list[float]] = {}

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` steps begins, within the current step of `parent`."""
        first, last, count, done = self._open.get(parent or "", [0.0, 1.0, 1.0, 0.0])
        width = (last - first) / count
        begin = first + width * min(done, count - 1)
        self._open[name] = [begin, begin + width, float(max(steps, 1)), 0.0]

    def step(self, name: str, index: int) -> float:
        """Step `index` (from 0) of a phase is over; returns the fraction of the whole."""
        phase = self._open.get(name)
        if phase is None:
            return 0.0
        first, last, count, _ = phase
        phase[3] = min(index + 1.0, count)
        return first + (last - first) * phase[3] / count

    def finish(self, name: str) -> None:
        """A phase is over."""
        self._open.pop(name, None)


def monitor_for(library: Native, advance: Callable[[float], None], cancelled: Event) -> Native:
    """An `IProgressMonitor` that reports fractions and, once `cancelled` is set, asks to stop."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        """TensorRT calls it from threads of its own."""

        def __init__(self) -> None:
            super().__init__()
            self._tree = PhaseTree()
            self._lock = Lock()

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._tree.start(name, parent, steps)

        def step_complete(self, name: str, step: int) -> bool:
            with self._lock:
                advance(self._tree.step(name, step))
            return not cancelled.is_set()

        def phase_finish(self, name: str) -> None:
            with self._lock:
                self._tree.finish(name)

    return Monitor()
