"""Answers beside what users expected: text in, one percentage out. Knows no tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from pitcrew_builder.proof.metrics.bleu import bleu
from pitcrew_builder.proof.metrics.exact_match import exact_match
from pitcrew_builder.proof.metrics.word_error import word_error_rate
from pitcrew_builder.spec import TaskMetric

Metric: TypeAlias = Callable[[Sequence[str], Sequence[Sequence[str]]], float]
"""Answers, and each one's references (one or more), to a score of them all."""

METRICS: Final[Mapping[TaskMetric, Metric]] = {
    TaskMetric.EXACT_MATCH: exact_match,
    TaskMetric.BLEU: bleu,
    TaskMetric.WER: word_error_rate,
}
