"""What was measured → a verdict."""

from dataclasses import replace

import pytest

from pitcrew_operator.ask.exposition import Totals, add_up, read_totals
from pitcrew_operator.ask.pods import agreement
from pitcrew_operator.plan.rollout.analysis import (
    Agreement,
    Bounds,
    Evidence,
    Outcome,
    Sample,
    judge,
)

INF = float("inf")
TEXT = """\
# HELP pitcrew_requests_finished_total Requests that ended, by reason.
pitcrew_requests_finished_total{reason="stop"} 3.0
pitcrew_requests_finished_total{reason="length"} 4.0
pitcrew_requests_finished_total{reason="cancelled"} 50.0
pitcrew_requests_finished_total{reason="error"} 2.0
pitcrew_requests_refused_total{code="429"} 8.0
pitcrew_requests_refused_total{code="500"} 2.0
pitcrew_requests_refused_total{code="503"} 1.0
pitcrew_time_to_first_token_seconds_bucket{le="0.1"} 2.0
pitcrew_time_to_first_token_seconds_bucket{le="1.0"} 6.0
pitcrew_time_to_first_token_seconds_bucket{le="+Inf"} 7.0
pitcrew_time_to_first_token_seconds_sum 3.5
pitcrew_time_to_first_token_seconds_count 7.0
pitcrew_broken{le="0.1"} many
another_metric 7
"""


def sample(requests: int = 100, errors: int = 0, mean: float = 0.1) -> Sample:
    slow = ((0.5 * mean, 0), (2 * mean, requests), (INF, requests))
    return Sample(requests, errors, mean * requests, requests, slow)


GOOD = Evidence(sample(), sample(), Agreement(95, 100))
BOUNDS = Bounds(10, 0.01, 1.5, 2.0, 0.9, floor_seconds=0.05)
CASES: list[tuple[str, Evidence | None, Outcome, str]] = [
    ("alike", GOOD, Outcome.GOOD, ""),
    ("unknown", None, Outcome.UNKNOWN, "under way"),
    ("errors", replace(GOOD, canary=sample(errors=2)), Outcome.BAD, "2 of 100 requests failed"),
    ("slow", replace(GOOD, canary=sample(mean=0.16)), Outcome.BAD, "maxMeanRatio is 1.5"),
    ("fast enough", replace(GOOD, canary=sample(mean=0.02), stable=sample(mean=0.001)),
     Outcome.GOOD, ""),
    ("other words", replace(GOOD, agreement=Agreement(89, 100)), Outcome.BAD,
     "less than analysis.golden.minAgreement = 0.9"),
    ("too few to judge", replace(GOOD, canary=sample(9, errors=9)), Outcome.UNKNOWN,
     "9 of 10 requests have come"),
    ("not asked yet", replace(GOOD, agreement=None), Outcome.UNKNOWN, "asked the prompts"),
    ("out of reach", replace(GOOD, problem="metrics: no answer"), Outcome.UNKNOWN, "no answer"),
    ("bad, and out of reach", replace(GOOD, canary=sample(errors=50), problem="x"), Outcome.BAD,
     "maxErrorRate"),
    ("nothing to compare with", replace(GOOD, stable=Sample()), Outcome.UNKNOWN, "are measured"),
    ("nobody asks", Evidence(Sample(), Sample(), Agreement(1, 1)), Outcome.UNKNOWN, "0 of 10"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("case", "evidence", "outcome", "hint"), CASES, ids=[case[0] for case in CASES]
)
def test_verdicts(case: str, evidence: Evidence | None, outcome: Outcome, hint: str) -> None:
    verdict = judge(BOUNDS, evidence)
    assert verdict.outcome is outcome
    assert hint in verdict.message


def test_a_canary_without_a_stable_replica_is_judged_by_itself() -> None:
    alone = Evidence(sample(), Sample())
    assert judge(BOUNDS.alone(), alone).outcome is Outcome.GOOD
    assert judge(BOUNDS.alone(), replace(alone, canary=sample(errors=9))).outcome is Outcome.BAD


def test_a_slow_tail_is_told_by_the_percentile() -> None:
    tail = Sample(100, 0, 10.0, 100, ((0.1, 90), (0.5, 100), (INF, 100)))
    flat = Sample(100, 0, 10.0, 100, ((0.1, 100), (INF, 100)))
    assert tail.quantile(0.95) == pytest.approx(0.3)
    verdict = judge(replace(BOUNDS, min_agreement=None), Evidence(tail, flat))
    assert verdict.outcome is Outcome.BAD
    assert "95th percentile" in verdict.message


def test_quantiles_at_the_edges() -> None:
    assert Sample().quantile(0.5) is None
    beyond = Sample(buckets=((1.0, 0), (INF, 5)))
    assert beyond.quantile(0.95) == 1.0


def test_metrics_are_read_from_the_text() -> None:
    totals = read_totals(TEXT)
    assert (totals.good, totals.errors) == (7, 3)
    assert (totals.seconds, totals.first_tokens) == (3.5, 7)
    assert totals.buckets == {0.1: 2, 1.0: 6, INF: 7}
    assert read_totals("") == Totals()


def test_what_came_before_does_not_count() -> None:
    earlier = read_totals(TEXT)
    later = replace(earlier, good=17, errors=5, seconds=5.5, buckets={0.1: 4, 1.0: 8, INF: 9})
    summed = add_up([later.since(earlier), Totals(good=1)])
    assert (summed.requests, summed.errors, summed.first_token_seconds) == (13, 2, 2.0)
    assert summed.buckets == ((0.1, 2), (1.0, 2), (INF, 2))


def test_tokens_agree_up_to_the_first_difference() -> None:
    said = [["a", "b", "c"], ["d", "e"]]
    assert agreement(said, said) == Agreement(5, 5)
    assert agreement(said, [["a", "x", "c"], ["d", "e", "f"]]) == Agreement(3, 5)
    assert agreement([[]], [["a"]]).rate == 1.0
