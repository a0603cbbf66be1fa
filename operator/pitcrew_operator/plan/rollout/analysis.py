"""Is the new revision as good as the stable one? What was measured goes in, a verdict comes out."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

ANALYSIS_FAILED = "AnalysisFailed"


class Outcome(StrEnum):
    """What a verdict says."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """The outcome, and why."""

    outcome: Outcome
    message: str = ""
    reason: str = ANALYSIS_FAILED


@dataclass(frozen=True)
class Sample:
    """What the replicas of one revision did while they were watched."""

    requests: int = 0
    """Answered with tokens or with a fault of the server's."""
    errors: int = 0
    """Of them, those with a fault."""
    first_token_seconds: float = 0.0
    """Sum of the times to the first token."""
    first_tokens: int = 0
    """How many that were."""
    buckets: tuple[tuple[float, int], ...] = ()
    """(upper bound in seconds, how many took no longer), rising; the last bound is infinite."""

    @property
    def error_rate(self) -> float:
        """0 to 1."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def mean(self) -> float | None:
        """Mean time to the first token in seconds."""
        return self.first_token_seconds / self.first_tokens if self.first_tokens else None

    def quantile(self, part: float) -> float | None:
        """A quantile of it in seconds, linear inside a bucket as Prometheus' histogram_quantile."""
        total = self.buckets[-1][1] if self.buckets else 0
        if total == 0:
            return None
        rank = part * total
        for (lower, below), (upper, count) in pairwise(((0.0, 0), *self.buckets)):
            if count >= rank:
                if upper == float("inf"):
                    return lower
                inside = count - below
                return upper if inside == 0 else lower + (upper - lower) * (rank - below) / inside
        return None


@dataclass(frozen=True)
class Agreement:
    """How far two revisions continue the same prompts by the same tokens."""

    equal: int
    """Tokens before the first difference, over all prompts."""
    total: int
    """Tokens of the stable revision."""

    @property
    def rate(self) -> float:
        """0 to 1."""
        return self.equal / self.total if self.total else 1.0


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured at one step."""

    canary: Sample
    stable: Sample
    agreement: Agreement | None = None
    problem: str | None = None
    """Why something could not be measured."""


@dataclass(frozen=True)
class Bounds:
    """What the new revision has to keep to. None: it is not looked at."""

    min_requests: int = 0
    max_error_rate: float | None = None
    max_mean_ratio: float | None = None
    """Of mean times to the first token, new to stable."""
    max_p95_ratio: float | None = None
    min_agreement: float | None = None
    floor_seconds: float = field(default=0.0)
    """Times to the first token up to this are never too long."""

    @property
    def compares_times(self) -> bool:
        """Whether times are held against those of the stable revision."""
        return self.max_mean_ratio is not None or self.max_p95_ratio is not None

    def alone(self) -> "Bounds":
        """What can be judged where no replica of the stable revision serves."""
        return replace(self, max_mean_ratio=None, max_p95_ratio=None, min_agreement=None)


def judge(bounds: Bounds, evidence: Evidence | None) -> Verdict:
    """Fail for what is proven bad, wait for what is not known yet, else pass."""
    if evidence is None:
        return Verdict(Outcome.UNKNOWN, "the first measurement is under way")
    requests = evidence.canary.requests
    if requests >= max(1, bounds.min_requests):
        broken = next(_broken(bounds, evidence), None)
        if broken is not None:
            return Verdict(Outcome.BAD, broken)
    if bounds.min_agreement is not None and evidence.agreement is not None:
        rate = evidence.agreement.rate
        if rate < bounds.min_agreement:
            return Verdict(Outcome.BAD, _disagreement(rate, bounds.min_agreement))
    if evidence.problem is not None:
        return Verdict(Outcome.UNKNOWN, evidence.problem)
    if bounds.compares_times and evidence.canary.first_tokens and not evidence.stable.first_tokens:
        return Verdict(Outcome.UNKNOWN, "the stable revision's times are measured")
    if bounds.min_agreement is not None and evidence.agreement is None:
        return Verdict(Outcome.UNKNOWN, "both engines are asked the prompts")
    if requests < bounds.min_requests:
        return Verdict(Outcome.UNKNOWN, f"{requests} of {bounds.min_requests} requests have come")
    return Verdict(Outcome.GOOD)


def _broken(bounds: Bounds, evidence: Evidence) -> Iterator[str]:
    canary, stable = evidence.canary, evidence.stable
    if bounds.max_error_rate is not None and canary.error_rate > bounds.max_error_rate:
        yield (
            f"{canary.errors} of {canary.requests} requests failed, more than "
            f"maxErrorRate = {bounds.max_error_rate:g} allows"
        )
    times = (
        ("mean time", canary.mean, stable.mean, bounds.max_mean_ratio, "maxMeanRatio"),
        ("95th percentile of the time", canary.quantile(0.95), stable.quantile(0.95),
         bounds.max_p95_ratio, "maxP95Ratio"),
    )  # fmt: skip
    for name, new, old, limit, bound in times:
        if limit is None or new is None or old is None or new <= bounds.floor_seconds:
            continue
        if new > limit * old:
            yield (
                f"the {name} to the first token is {new:.3g} s, and {old:.3g} s on the stable "
                f"revision; timeToFirstToken.{bound} is {limit:g}"
            )


def _disagreement(rate: float, limit: float) -> str:
    return (
        f"{rate:.1%} of the tokens agree with the stable revision's, less than "
        f"analysis.golden.minAgreement = {limit:g}"
    )
