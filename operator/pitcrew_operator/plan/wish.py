"""What the spec of an LLMDeployment asks of a rollout, in the planner's words."""

from datetime import timedelta
from typing import Final

from pitcrew_operator.api.common import dump
from pitcrew_operator.api.rollout import Analysis, RolloutSettings, Strategy
from pitcrew_operator.manifests.names import digest
from pitcrew_operator.plan.rollout.analysis import Bounds
from pitcrew_operator.plan.rollout.course import Wish
from pitcrew_operator.plan.rollout.share import Share
from pitcrew_operator.plan.rollout.step import Budget
from pitcrew_operator.views import Deployment

BESIDES_STARTUP: Final = 120
"""Seconds to be scheduled and to pull the image."""
_SHAPES_NO_POD: Final = frozenset(
    {"replicas", "autoscaling", "rollout", "service", "podDisruptionBudget", "inferencePool"}
)


def budget_of(owner: Deployment) -> Budget:
    """How far their number may stray meanwhile."""
    settings = owner.spec.rollout
    if settings.strategy is Strategy.IN_PLACE:
        return Budget(
            owner.spec.wanted_replicas, surge=0, unavailable=max(1, settings.max_unavailable or 1)
        )
    return Budget(
        owner.spec.wanted_replicas,
        surge=settings.max_surge or 1,
        unavailable=settings.max_unavailable or 0,
    )


def wish_of(owner: Deployment, revision: str) -> Wish:
    """The rollout to that revision."""
    settings = owner.spec.rollout
    return Wish(
        revision,
        budget_of(owner),
        steps=_steps(settings),
        paused=settings.paused,
        trigger=settings.trigger,
        deadline=_deadline(owner),
        rolls_back=settings.auto_rollback,
    )


def spec_digest(owner: Deployment) -> str:
    """Stands for the part of the spec that shapes pods: equal where only others changed something."""
    return digest({k: v for k, v in dump(owner.spec).items() if k not in _SHAPES_NO_POD})


def bounds_of(analysis: Analysis) -> Bounds:
    """The bounds as numbers."""
    times, golden = analysis.time_to_first_token, analysis.golden
    return Bounds(
        min_requests=analysis.min_requests,
        max_error_rate=_number(analysis.max_error_rate),
        max_mean_ratio=_number(times.max_mean_ratio),
        max_p95_ratio=_number(times.max_p95_ratio),
        min_agreement=_number(golden.min_agreement) if golden else None,
        floor_seconds=times.floor_milliseconds / 1000,
    )


def _steps(settings: RolloutSettings) -> tuple[Share, ...]:
    if settings.canary is None:
        return ()
    return tuple(
        Share(step.weight, step.replicas, timedelta(seconds=step.hold_seconds))
        for step in settings.canary.steps
    )


def _deadline(owner: Deployment) -> timedelta:
    asked = owner.spec.rollout.progress_deadline_seconds
    usual = owner.spec.runtime.startup_seconds + BESIDES_STARTUP
    return timedelta(seconds=usual if asked is None else asked)


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
