"""What a server tells under `/metrics`, and what happened between two looks at it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One look."""

    at: float
    """Seconds, on any clock."""
    samples: Mapping[str, Mapping[Labels, float]]
    """By name, then by labels."""

    def value(self, name: str) -> float:
        """The sum of a name's samples; 0 where there are none."""
        return math.fsum(self.samples.get(name, {}).values())

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a name's only sample."""
        return dict(next(iter(self.samples.get(name, {})), ()))


def parse(text: str, at: float) -> Scrape:
    """Read Prometheus' text format; raises `ValueError` where it is something else."""
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            samples.setdefault(sample.name, {})[labels] = sample.value
    return Scrape(at, samples)


@dataclass(frozen=True, slots=True)
class Interval:
    """Two looks, the later one second. `before` may be an empty look: then all since the start."""

    before: Scrape
    after: Scrape

    @property
    def seconds(self) -> float:
        """Between the looks."""
        return self.after.at - self.before.at

    def gained(self, name: str) -> float:
        """What a counter has gained; a server that was started again begins at 0."""
        now, then = self.after.value(name), self.before.value(name)
        return now - then if now >= then else now

    def rate(self, name: str) -> float:
        """A counter's gain in a second."""
        return self.gained(name) / self.seconds if self.seconds > 0 else 0.0

    def part(self, name: str, whole: str) -> float | None:
        """What one counter has gained, of what another has; None where that is nothing."""
        total = self.gained(whole)
        return self.gained(name) / total if total else None

    def mean(self, histogram: str) -> float | None:
        """The mean of a histogram's new observations; None where there are none."""
        return self.part(f"{histogram}_sum", f"{histogram}_count")

    def quantile(self, histogram: str, part: float) -> float | None:
        """Of a histogram's new observations, as PromQL's `histogram_quantile`: linear in a bucket,
        and the last finite bound for what lies above it. None where there are none.
        """
        counts = self._buckets(f"{histogram}_bucket")
        if not counts or not counts[-1][1]:
            return None
        rank, low, below = part * counts[-1][1], 0.0, 0.0
        for bound, count in counts:
            if count >= rank and count > below:
                if math.isinf(bound):
                    return low
                return low + (bound - low) * (rank - below) / (count - below)
            low, below = bound, count
        return low

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """What each of a counter's samples has gained, by the value of a label."""
        before = self.before.samples.get(name, {})
        return {
            dict(labels)[label]: max(0.0, value - before.get(labels, 0.0))
            for labels, value in self.after.samples.get(name, {}).items()
        }

    def _buckets(self, name: str) -> list[tuple[float, float]]:
        """(upper bound, observations up to it), ascending."""
        return sorted((float(le), count) for le, count in self.by_label(name, "le").items())
