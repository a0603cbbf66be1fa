"""Reads what is wanted of the text that a pod's /metrics answers with: totals, and what is the case now."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pitcrew_operator.plan.rollout.analysis import Sample

_LINE: Final = re.compile(r"^(pitcrew_[a-z_]+)(?:\{([^}]*)\})? (\S+)")
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')
_FINISHED: Final = "pitcrew_requests_finished_total"
_REFUSED: Final = "pitcrew_requests_refused_total"
_FIRST: Final = "pitcrew_time_to_first_token_seconds"
_GAUGES: Final = {
    "pitcrew_requests_waiting": "waiting",
    "pitcrew_requests_running": "running",
    "pitcrew_kv_cache_usage_ratio": "kv_usage",
}
_GOOD: Final = frozenset({"stop", "length"})


@dataclass(frozen=True)
class Totals:
    """What one pod has counted since it started."""

    good: float = 0
    errors: float = 0
    """Requests that were answered with a fault of the server's: 5xx, or cut off by an error."""
    seconds: float = 0
    first_tokens: float = 0
    buckets: Mapping[float, float] = field(default_factory=dict)

    def plus(self, other: "Totals") -> "Totals":
        """Both together."""
        return Totals(
            self.good + other.good,
            self.errors + other.errors,
            self.seconds + other.seconds,
            self.first_tokens + other.first_tokens,
            {
                bound: self.buckets.get(bound, 0) + other.buckets.get(bound, 0)
                for bound in self.buckets.keys() | other.buckets.keys()
            },
        )

    def since(self, earlier: "Totals") -> "Totals":
        """What came after the earlier look at the same address. Counters only ever grow: where one is
        less than it was, a process has begun anew there, and all that it counted came after.
        """
        if self._is_less(earlier):
            return self
        return Totals(
            self.good - earlier.good,
            self.errors - earlier.errors,
            self.seconds - earlier.seconds,
            self.first_tokens - earlier.first_tokens,
            {bound: n - earlier.buckets.get(bound, 0) for bound, n in self.buckets.items()},
        )

    def _is_less(self, earlier: "Totals") -> bool:
        return (
            self.good < earlier.good
            or self.errors < earlier.errors
            or self.seconds < earlier.seconds
            or self.first_tokens < earlier.first_tokens
        )


@dataclass(frozen=True)
class State:
    """What is the case in one pod. None: it does not tell."""

    waiting: float | None = None
    """Requests that have no place in the batch yet."""
    running: float | None = None
    """Requests in the batch."""
    kv_usage: float | None = None
    """Used part of the KV cache, 0 to 1."""


def read_state(text: str) -> State:
    """The state in a Prometheus text."""
    found = {_GAUGES[name]: value for name, _, value in _samples(text) if name in _GAUGES}
    return State(**found)


def read_totals(text: str) -> Totals:
    """The totals in a Prometheus text; what is not there counts as 0."""
    good = errors = seconds = first = 0.0
    buckets: dict[float, float] = {}
    for name, labels, value in _samples(text):
        if name == _FINISHED and labels.get("reason") in _GOOD:
            good += value
        elif name == _REFUSED and labels.get("code", "").startswith("5"):
            errors += value
        elif name == f"{_FIRST}_sum":
            seconds = value
        elif name == f"{_FIRST}_count":
            first = value
        elif name == f"{_FIRST}_bucket":
            buckets[float(labels["le"])] = value
    return Totals(good, errors, seconds, first, buckets)


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        try:
            yield match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])
        except ValueError:
            continue


def add_up(pods: list[Totals]) -> Sample:
    """The pods of one revision as one."""
    bounds = sorted({bound for pod in pods for bound in pod.buckets})
    return Sample(
        requests=round(sum(pod.good + pod.errors for pod in pods)),
        errors=round(sum(pod.errors for pod in pods)),
        first_token_seconds=sum(pod.seconds for pod in pods),
        first_tokens=round(sum(pod.first_tokens for pod in pods)),
        buckets=tuple(
            (bound, round(sum(pod.buckets.get(bound, 0) for pod in pods))) for bound in bounds
        ),
    )
