"""Whether measured figures are good enough to publish."""

from collections.abc import Sequence
from decimal import Decimal

from pitcrew_builder.errors import ValidationFailed
from pitcrew_builder.manifest import Score, TaskScore
from pitcrew_builder.spec import Proof, Task

SAME_FORM = "0.02"
"""Nats that two forms of one network may be apart: in float32 they are by less than 1e-6, and by
7e-4 (int4, the sample model) where activations are rounded: a last bit may move one by a whole step.
"""


def check(scores: tuple[Score, ...], wanted: Proof) -> None:
    """Raise `ValidationFailed` with the figures of every score that misses a threshold."""
    failures = _failures(scores, wanted)
    if failures:
        more = f"; and {len(failures) - 2} more shapes" if len(failures) > 2 else ""
        raise ValidationFailed(
            f"the engine is not good enough on the held-out prompts: {'; '.join(failures[:2])}"
            f"{more}. Choose a milder quantization, calibrate on more of your own prompts, or "
            f"change the thresholds in proof"
        )


def check_served(scores: tuple[Score, ...], wanted: Proof) -> None:
    """Raise `ValidationFailed` where the served form decodes otherwise than the proven one: by
    what is wanted of the engine, and by `SAME_FORM` at most.
    """
    most = min(float(Decimal(wanted.max_kl_divergence or SAME_FORM)), float(SAME_FORM))
    failures = _failures(scores, wanted.model_copy(update={"max_kl_divergence": str(most)}))
    if failures:
        raise ValidationFailed(
            f"contiguous.onnx, by which the engine would be served, decodes otherwise than the graph "
            f"that was proven: {'; '.join(failures[:2])}. Please report this as a bug"
        )


def check_tasks(scores: Sequence[TaskScore], wanted: Sequence[Task]) -> None:
    """Raise `ValidationFailed` with the figures of every task that was not done well enough."""
    failures = [
        f"task {number} ({task.metric}, {score.samples} questions) {', '.join(problems)}"
        for number, (score, task) in enumerate(zip(scores, wanted, strict=True), 1)
        if (problems := _shortfalls(score, task))
    ]
    if failures:
        raise ValidationFailed(
            f"the engine is not good enough at proof.tasks: {'; '.join(failures)}. Choose a milder "
            f"quantization, calibrate on more of your own prompts, or change threshold or "
            f"maxRegression"
        )


def _shortfalls(score: TaskScore, task: Task) -> list[str]:
    sign, bound = (-1, "at most") if task.metric.falls else (1, "at least")
    problems = []
    # Written so that a NaN fails.
    wanted = task.threshold
    if wanted is not None and not sign * score.score >= sign * float(Decimal(wanted)):
        problems.append(f"scores {score.score:.2f} ({bound} {wanted} wanted)")
    before, allowed = score.reference_score, task.max_regression
    if before is not None and not sign * (before - score.score) <= float(Decimal(allowed)):
        problems.append(
            f"goes from {before:.2f} unquantized to {score.score:.2f} (allowed: {allowed} points)"
        )
    return problems


def allowed_increase(reference: float, wanted: Proof) -> float:
    """How far perplexity may rise: the larger of the absolute and the relative allowance."""
    relative = reference * float(Decimal(wanted.max_perplexity_increase_percent)) / 100
    return max(float(Decimal(wanted.max_perplexity_increase)), relative)


def _failures(scores: tuple[Score, ...], wanted: Proof) -> list[str]:
    """The scores that miss a threshold, told."""
    return [_told(score, problems) for score in scores if (problems := _problems(score, wanted))]


def _problems(score: Score, wanted: Proof) -> list[str]:
    before, after = score.reference_perplexity, score.perplexity
    allowed = allowed_increase(before, wanted)
    problems = []
    # Written so that a NaN fails.
    if not after - before <= allowed:
        problems.append(
            f"perplexity rises from {before:.3f} to {after:.3f} (allowed +{allowed:.3f})"
        )
    least = wanted.min_top1_agreement
    if least is not None and not score.top1_agreement >= float(Decimal(least)):
        problems.append(f"top-1 agreement is {score.top1_agreement:.4f} (at least {least} wanted)")
    most = wanted.max_kl_divergence
    if most is not None and not score.kl_divergence <= float(Decimal(most)):
        problems.append(f"KL divergence is {score.kl_divergence:.5f} nats (at most {most} wanted)")
    return problems


def _told(score: Score, problems: list[str]) -> str:
    kind = ", as long texts" if score.long else ""
    return f"batch {score.batch}, capacity {score.capacity}{kind}: {', '.join(problems)}"
