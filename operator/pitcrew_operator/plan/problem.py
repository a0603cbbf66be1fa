"""What to say where no plan can be made or carried out: an unreadable spec, a refused write."""

from datetime import datetime

from pitcrew_operator import reasons
from pitcrew_operator.api.deployment import LLMDeploymentStatus
from pitcrew_operator.api.engine import LLMEngineStatus
from pitcrew_operator.kinds import Kind
from pitcrew_operator.plan.actions import Action, WriteStatus
from pitcrew_operator.plan.conditions import (
    Situation,
    conditions,
    reconciling,
    stalled,
    transition,
)
from pitcrew_operator.views import Meta

OwnStatus = LLMEngineStatus | LLMDeploymentStatus


def invalid(problem: str) -> Situation:
    """The spec does not parse (a CRD older or newer than the operator lets that through)."""
    return stalled(reasons.INVALID_SPEC, f"{problem}; correct the field")


def refused(status: int, message: str, *, is_permission: bool) -> Situation:
    """The API server refused to create or change a child."""
    if is_permission:
        return reconciling(
            reasons.FORBIDDEN,
            f"the API server forbids it ({status}: {message}); check quotas of the namespace and "
            "the operator's role",
        )
    return stalled(
        reasons.REJECTED,
        f"the API server refuses what the spec leads to ({status}: {message}); correct the field "
        "that it names",
    )


def tell(
    kind: Kind, meta: Meta, before: OwnStatus, situation: Situation, now: datetime
) -> list[Action]:
    """Change nothing but the conditions; no action where they already say so."""
    generation = meta.generation
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "conditions": conditions(situation, generation, before.conditions, now),
        }
    )
    if meta.deleting or status == before:
        return []
    return [
        WriteStatus(kind, meta, status),
        *transition(kind, meta, before, situation, now),
    ]
