"""Workloads whose controllers, pods and watches act when a test says so.

What a planner hears is older than what is: each workload acts on its wish, reports, and is heard of
in steps of their own. A write against an older state than the newest is refused, as the API server
refuses it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pitcrew_operator.plan.rollout.course import Course, Record, Sight, Wish, advance
from pitcrew_operator.plan.rollout.step import Count, step


@dataclass
class Workload:
    """One revision's workload, as it is."""

    wanted: int
    version: int
    generation: int = 1
    observed: int = 0
    pods: list[bool] = field(default_factory=list)
    """Whether each of them serves."""
    reported: tuple[int, int, int] = (0, 0, 0)
    """Pods, those that serve, and the generation that was observed, as the status has them."""
    crashes: int = 0
    """Pods that ceased to serve, and the planner has not heard a status that tells of it."""
    unreported: int = 0
    """Those of them that no status tells of yet."""
    starts: int = 0
    """Pods that began to serve and are in no status yet: nobody can know of them."""

    @property
    def serving(self) -> int:
        """Pods that will go on serving: a controller takes away idle ones first."""
        return min(self.wanted, sum(self.pods))

    @property
    def told(self) -> int:
        """Those of them that a status has told of, or tells of next."""
        return min(self.wanted, max(0, sum(self.pods) - self.starts))

    @property
    def occupied(self) -> int:
        """Pods that exist or are about to."""
        return max(self.wanted, len(self.pods))

    @property
    def count(self) -> Count:
        """What the API server tells of it."""
        present, available, observed = self.reported
        return Count(self.wanted, present, available, settled=observed >= self.generation)


class Fleet:
    """All workloads of one deployment, the planner's view of them, and what it remembers."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.now = datetime(2026, 11, 1, 12, tzinfo=UTC)
        self.workloads: dict[str, Workload] = {}
        self.view: dict[str, tuple[int, Count]] = {}
        self.record: Record | None = None
        self._versions = 0

    # The planner.

    def look(self, sight: Mapping[str, object]) -> Course:
        """The course by what was heard."""
        counts = {name: count for name, (_, count) in self.view.items()}
        return advance(self.wish, self.record, Sight(counts, self.now, **sight))  # type: ignore[arg-type]

    def decide(self, course: Course) -> dict[str, int]:
        """The replicas that it would tell each revision to have."""
        counts = {name: count for name, (_, count) in self.view.items()}
        order = [*course.order, *sorted(counts.keys() - set(course.order))]
        return step(counts, course.goals, order, self.wish.budget)

    def write(self, name: str, wanted: int) -> bool:
        """Tell a workload, which is made where there is none; False where the view was too old."""
        known = self.workloads.get(name)
        heard = self.view.get(name)
        if (known.version if known else None) != (heard[0] if heard else None):
            self.hear(name)
            return False
        if known is None:
            self._versions += 1
            self.workloads[name] = Workload(wanted, self._versions)
        elif known.wanted != wanted:
            known.wanted = wanted
            known.generation += 1
            self._touch(known)
        self.hear(name)
        return True

    def remove_empty(self, course: Course) -> None:
        """Workloads that are empty and of no further use go."""
        kept = {self.wish.revision, course.record.stable}
        for name, (_, count) in tuple(self.view.items()):
            real = self.workloads.get(name)
            if name in kept or count.occupied or not count.settled or real is None:
                continue
            if real.version == self.view[name][0]:
                del self.workloads[name], self.view[name]

    def hear(self, name: str) -> None:
        """The watch catches up on one workload."""
        known = self.workloads.get(name)
        if known is None:
            self.view.pop(name, None)
        else:
            self.view[name] = known.version, known.count
            known.crashes = known.unreported

    # Everybody else.

    def act(self, name: str) -> None:
        """The controller makes or removes pods."""
        workload = self.workloads[name]
        workload.observed = workload.generation
        workload.pods.sort(reverse=True)
        del workload.pods[workload.wanted :]
        workload.pods += [False] * (workload.wanted - len(workload.pods))

    def report(self, name: str) -> None:
        """The controller writes the status."""
        workload = self.workloads[name]
        workload.starts = workload.unreported = 0
        told = (len(workload.pods), sum(workload.pods), workload.observed)
        if told != workload.reported:
            workload.reported = told
            self._touch(workload)

    def start(self, name: str) -> None:
        """One more pod serves."""
        pods = self.workloads[name].pods
        if False in pods:
            pods[pods.index(False)] = True
            self.workloads[name].starts += 1

    def crash(self, name: str) -> None:
        """One pod ceases to serve."""
        workload = self.workloads[name]
        if True in workload.pods:
            workload.pods[workload.pods.index(True)] = False
            workload.crashes += 1
            workload.unreported += 1

    def pass_time(self, seconds: int) -> None:
        """The clock moves, back too."""
        self.now += timedelta(seconds=seconds)

    def _touch(self, workload: Workload) -> None:
        self._versions += 1
        workload.version = self._versions
